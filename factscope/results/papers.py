"""The papers behind what Factscope computes, as BibTeX: data, and one function that writes it.

Authors are as their papers name them, the first few and "others" where there are many. A preprint's number is its
arXiv identifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BRACES = str.maketrans("", "", "{}")  # of BibTeX, which is asked to keep capitals


@dataclass(frozen=True)
class Paper:
    """One source; its key is the first author's family name, the year and the first word of the title."""

    key: str
    author: str  # as BibTeX joins names
    title: str  # capitals in braces stay capitals
    year: int
    arxiv: str = ""
    where: str = ""  # journal, conference or institution
    url: str = ""

    @property
    def said(self) -> str:
        """Title, year and number, in a line of text."""
        number = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.title.translate(BRACES)}, {self.year}{number}"


PAPERS = {
    paper.key: paper
    for paper in (
        Paper("factscope", "{The Factscope authors}",
              "Factscope: a workbench for what language models know", 2026),
        Paper("nanda2022transformerlens", "Nanda, Neel and Bloom, Joseph", "{TransformerLens}", 2022,
              url="https://github.com/TransformerLensOrg/TransformerLens"),
        Paper("meng2022locating", "Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan",
              "Locating and Editing Factual Associations in {GPT}", 2022, "2202.05262",
              "Advances in Neural Information Processing Systems"),
        Paper("meng2023mass",
              "Meng, Kevin and Sharma, Arnab Sen and Andonian, Alex and Belinkov, Yonatan and Bau, David",
              "Mass-Editing Memory in a Transformer", 2023, "2210.07229",
              "International Conference on Learning Representations"),
        Paper("haklay2025position",
              "Haklay, Tal and Orgad, Hadas and Bau, David and Mueller, Aaron and Belinkov, Yonatan",
              "Position-aware Automatic Circuit Discovery", 2025, "2502.04577",
              "Annual Meeting of the Association for Computational Linguistics"),
        Paper("nostalgebraist2020logit", "{nostalgebraist}", "Interpreting {GPT}: the Logit Lens", 2020,
              url="https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens"),
        Paper("geva2023dissecting", "Geva, Mor and Bastings, Jasmijn and Filippova, Katja and Globerson, Amir",
              "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", 2023, "2304.14767"),
        Paper("ghandeharioun2024patchscopes",
              "Ghandeharioun, Asma and Caciularu, Avi and Pearce, Adam and Dixon, Lucas and Geva, Mor",
              "Patchscopes: A Unifying Framework for Inspecting Hidden Representations of Language Models", 2024,
              "2401.06102"),
        Paper("belrose2023eliciting", "Belrose, Nora and Furman, Zach and Smith, Logan and others",
              "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023, "2303.08112"),
        Paper("gurnee2026verbalizable", "Gurnee, Wes and others",
              "Verbalizable Representations Form a Global Workspace in Language Models", 2026,
              where="Transformer Circuits Thread", url="https://transformer-circuits.pub/2026/workspace/index.html"),
        Paper("li2024optimal", "Li, Maximilian and Janson, Lucas", "Optimal ablation for interpretability", 2024,
              "2409.09951", "Advances in Neural Information Processing Systems"),
        Paper("hernandez2024linearity",
              "Hernandez, Evan and Sharma, Arnab Sen and Haklay, Tal and Meng, Kevin and others",
              "Linearity of Relation Decoding in Transformer Language Models", 2024, "2308.09124"),
        Paper("dai2022knowledge",
              "Dai, Damai and Dong, Li and Hao, Yaru and Sui, Zhifang and Chang, Baobao and Wei, Furu",
              "Knowledge Neurons in Pretrained Transformers", 2022, "2104.08696"),
        Paper("hase2023localization", "Hase, Peter and Bansal, Mohit and Kim, Been and Ghandeharioun, Asma",
              "Does Localization Inform Editing? Surprising Differences in Causality-Based Localization vs. Knowledge "
              "Editing in Language Models", 2023, "2301.04213"),
        Paper("conmy2023automated",
              "Conmy, Arthur and Mavor-Parker, Augustine N. and Lynch, Aengus and Heimersheim, Stefan and "
              "Garriga-Alonso, Adri{\\`a}",
              "Towards Automated Circuit Discovery for Mechanistic Interpretability", 2023, "2304.14997"),
        Paper("wang2023interpretability", "Wang, Kevin and Variengien, Alexandre and Conmy, Arthur and others",
              "Interpretability in the Wild: a Circuit for Indirect Object Identification in {GPT-2} small", 2023,
              "2211.00593"),
        Paper("syed2023attribution", "Syed, Aaquib and Rager, Can and Conmy, Arthur",
              "Attribution Patching Outperforms Automated Circuit Discovery", 2023, "2310.10348"),
        Paper("jafari2025relp", "Rezaei Jafari, Farnoush and Eberle, Oliver and Khakzar, Ashkan and Nanda, Neel",
              "{RelP}: Faithful and Efficient Circuit Discovery in Language Models via Relevance Patching", 2025,
              "2508.21258"),
        Paper("kramar2024atp", "Kram{\'a}r, J{\'a}nos and Lieberum, Tom and Shah, Rohin and Nanda, Neel",
              "{AtP*}: An efficient and scalable method for localizing {LLM} behaviour to components", 2024,
              "2403.00745"),
        Paper("hanna2024faith", "Hanna, Michael and Pezzelle, Sandro and Belinkov, Yonatan",
              "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms", 2024,
              "2403.17806"),
        Paper("yao2024circuits", "Yao, Yunzhi and Zhang, Ningyu and Xi, Zekun and Wang, Mengru and others",
              "Knowledge Circuits in Pretrained Transformers", 2024, "2405.17969"),
        Paper("gupta2024rebuilding", "Gupta, Akshat and Baskaran, Sidharth and Anumanchipalli, Gopala",
              "Rebuilding {ROME}: Resolving Model Collapse during Sequential Model Editing", 2024, "2403.07175"),
        Paper("gupta2024unified", "Gupta, Akshat and Sajnani, Dev and Anumanchipalli, Gopala",
              "A Unified Framework for Model Editing", 2024, "2403.14236"),
        Paper("fang2024alphaedit", "Fang, Junfeng and others",
              "{AlphaEdit}: Null-Space Constrained Knowledge Editing for Language Models", 2024, "2410.02355"),
        Paper("li2024pmet", "Li, Xiaopeng and others", "{PMET}: Precise Model Editing in a Transformer", 2024,
              "2308.08742"),
        Paper("wang2026soft", "Wang, Xinyu and Lyu, Sicheng and Gu, Yu and Huang, Jerry and others",
              "Beyond Hard Writes and Rigid Preservation: Soft Recursive Least-Squares for Lifelong {LLM} Editing",
              2026, "2601.15686"),
        Paper("gupta2025lifelong", "Gupta, Akshat and others",
              "Lifelong Sequential Knowledge Editing without Model Degradation", 2025, "2502.01636"),
        Paper("gu2025ultraedit", "Gu, Xiaojie and others",
              "{UltraEdit}: Training-, Subject-, and Memory-Free Lifelong Editing in Large Language Models", 2025,
              "2505.14679"),
        Paper("zhang2024comprehensive", "Zhang, Ningyu and Yao, Yunzhi and Tian, Bozhong and Wang, Peng and others",
              "A Comprehensive Study of Knowledge Editing for Large Language Models", 2024, "2401.01286"),
        Paper("yang2025right", "Yang, Wanli and Sun, Fei and Tang, Rui and Zang, Hongyu and others",
              "Fine-tuning Done Right in Model Editing", 2025, "2509.22072"),
        Paper("jang2023knowledge", "Jang, Joel and Yoon, Dongkeun and Yang, Sohee and others",
              "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", 2023, "2210.01504"),
        Paper("zhang2024negative", "Zhang, Ruiqi and Lin, Licong and Bai, Yu and Mei, Song",
              "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning", 2024,
              "2404.05868"),
        Paper("ikram2026crispedit",
              "Ikram, Zarif and Firouzkouhi, Arad and Tu, Stephen and Soltanolkotabi, Mahdi and Rashidinejad, Paria",
              "{CrispEdit}: Low-Curvature Projections for Scalable Non-Destructive {LLM} Editing", 2026, "2602.15823"),
        Paper("guo2025towards", "Guo, Yaming and others",
              "Towards Lifelong Model Editing via Simulating Ideal Editor", 2025,
              where="International Conference on Machine Learning"),
        Paper("hu2021lora", "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and others",
              "{LoRA}: Low-Rank Adaptation of Large Language Models", 2021, "2106.09685"),
        Paper("zhang2023adaptive", "Zhang, Qingru and others",
              "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023, "2303.10512"),
        Paper("hartvigsen2023grace", "Hartvigsen, Thomas and Sankaranarayanan, Swami and Palangi, Hamid and Kim, Yoon "
              "and Ghassemi, Marzyeh",
              "Aging with {GRACE}: Lifelong Model Editing with Discrete Key-Value Adaptors", 2023, "2211.11031"),
        Paper("wang2024memoe", "Wang, Renzhi and Li, Piji",
              "{MEMoE}: Enhancing Model Editing with Mixture of Experts Adaptors", 2024, "2405.19086"),
        Paper("wang2024wise", "Wang, Peng and Li, Zexi and Zhang, Ningyu and Xu, Ziwen and Yao, Yunzhi and Jiang, Yong "
              "and Xie, Pengjun and Huang, Fei and Chen, Huajun",
              "{WISE}: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models", 2024,
              "2405.14768"),
        Paper("wang2025memoir", "Wang, Ke and Qin, Yiming and Dimitriadis, Nikolaos and Favero, Alessandro and "
              "Frossard, Pascal",
              "{MEMOIR}: Lifelong Model Editing with Minimal Overwrite and Informed Retention for {LLM}s", 2025,
              "2506.07899"),
        Paper("yu2024melo", "Yu, Lang and Chen, Qin and Zhou, Jie and He, Liang",
              "{MELO}: Enhancing Model Editing with Neuron-Indexed Dynamic {LoRA}", 2024, "2312.11795"),
        Paper("dong2022calibrating", "Dong, Qingxiu and Dai, Damai and Song, Yifan and Xu, Jingjing and Sui, Zhifang "
              "and Li, Lei",
              "Calibrating Factual Knowledge in Pretrained Language Models", 2022, "2210.03329"),
        Paper("cohen2024evaluating", "Cohen, Roi and Biran, Eden and Yoran, Ori and Globerson, Amir and Geva, Mor",
              "Evaluating the Ripple Effects of Knowledge Editing in Language Models", 2024, "2307.12976"),
        Paper("zheng2023edit", "Zheng, Ce and Li, Lei and Dong, Qingxiu and others",
              "Can We Edit Factual Knowledge by In-Context Learning?", 2023, "2305.12740"),
        Paper("madaan2022memory", "Madaan, Aman and Tandon, Niket and Clark, Peter and Yang, Yiming",
              "Memory-Assisted Prompt Editing to Improve {GPT-3} after Deployment", 2022, "2201.06009"),
        Paper("ma2024perturbation", "Ma, Jun-Yu and others", "Perturbation-Restrained Sequential Model Editing", 2024,
              "2405.16821"),
        Paper("gu2024harms", "Gu, Jia-Chen and others",
              "Model Editing Harms General Abilities of Large Language Models: Regularization to the Rescue", 2024,
              "2401.04700"),
        Paper("liu2025energy", "Liu, Qingyuan and Gu, Jia-Chen and Yao, Yunzhi and Wang, Hong and Peng, Nanyun",
              "Energy-Regularized Sequential Model Editing on Hyperspheres", 2025, "2510.01172"),
        Paper("yao2023editing", "Yao, Yunzhi and Wang, Peng and Tian, Bozhong and others",
              "Editing Large Language Models: Problems, Methods, and Opportunities", 2023, "2305.13172"),
        Paper("yang2025mirage", "Yang, Wanli and Sun, Fei and Tan, Jiajun and Ma, Xinyu and others",
              "The Mirage of Model Editing: Revisiting Evaluation in the Wild", 2025, "2502.11177"),
        Paper("levy2017zero", "Levy, Omer and Seo, Minjoon and Choi, Eunsol and Zettlemoyer, Luke",
              "Zero-Shot Relation Extraction via Reading Comprehension", 2017, "1706.04115"),
        Paper("mitchell2022fast", "Mitchell, Eric and Lin, Charles and Bosselut, Antoine and Finn, Chelsea and "
              "Manning, Christopher D.", "Fast Model Editing at Scale", 2022, "2110.11309"),
        Paper("decao2021editing", "De Cao, Nicola and Aziz, Wilker and Titov, Ivan",
              "Editing Factual Knowledge in Language Models", 2021, "2104.08164"),
        Paper("hernandez2023inspecting", "Hernandez, Evan and Li, Belinda Z. and Andreas, Jacob",
              "Inspecting and Editing Knowledge Representations in Language Models", 2023, "2304.00740"),
        Paper("mitchell2022memory", "Mitchell, Eric and Lin, Charles and Bosselut, Antoine and Manning, Christopher D. "
              "and Finn, Chelsea", "Memory-Based Model Editing at Scale", 2022, "2206.06520"),
        Paper("huang2023patcher", "Huang, Zeyu and Shen, Yikang and Zhang, Xiaofeng and Zhou, Jie and Rong, Wenge and "
              "Xiong, Zhang", "Transformer-Patcher: One Mistake Worth One Neuron", 2023, "2301.09785"),
        Paper("tan2024massive", "Tan, Chenmien and Zhang, Ge and Fu, Jie",
              "Massive Editing for Large Language Models via Meta Learning", 2024, "2311.04661"),
        Paper("zhong2023mquake", "Zhong, Zexuan and Wu, Zhengxuan and Manning, Christopher D. and Potts, Christopher "
              "and Chen, Danqi",
              "{MQuAKE}: Assessing Knowledge Editing in Language Models via Multi-Hop Questions", 2023, "2305.14795"),
        Paper("gao2023framework", "Gao, Leo and Tow, Jonathan and Abbasi, Baber and Biderman, Stella and others",
              "A Framework for Few-Shot Language Model Evaluation", 2023,
              url="https://github.com/EleutherAI/lm-evaluation-harness"),
    )
}  # fmt: skip


def bibtex(keys: Sequence[str]) -> str:
    """The entries of these keys, each once, in order."""
    return "\n\n".join(_entry(PAPERS[key]) for key in dict.fromkeys(keys)) + "\n"


def _entry(paper: Paper) -> str:
    kind = "inproceedings" if paper.where else "misc"
    fields = {"author": paper.author, "title": paper.title, "year": str(paper.year), "booktitle": paper.where}
    fields |= {"eprint": paper.arxiv, "archivePrefix": "arXiv" if paper.arxiv else "", "url": paper.url}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join((f"@{kind}{{{paper.key},", *lines, "}"))
