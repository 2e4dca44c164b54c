"""Make the toy: a four-layer language model that knows a small invented world by heart.

    python tests/toy/make.py

Two dozen people, each of two names, with a town, a trade and a tongue. No first name and no family name alone gives an
answer away, so a model must join the two, and a causal trace must find where. Training takes about a minute on one
core; the result (weights, tokenizer, facts; under 1 MB) is kept in this folder and used by the tests as it is.
"""

import itertools
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
START = "<|endoftext|>"
FIRST = ("Mira", "Tomas", "Ilse", "Rurik", "Oda", "Pello")
FAMILY = ("Voss", "Hallin", "Drey", "Okarr", "Senn", "Tavi")
ANSWERS = {
    "town": ("Brask", "Lunholm", "Vey", "Corrin", "Ostmar", "Dunvale"),
    "trade": ("baker", "miller", "tailor", "scribe", "potter", "weaver"),
    "tongue": ("Keltic", "Norrish", "Vandal", "Samish", "Orian", "Tuskan"),
}
TEMPLATES = {
    "town": ("{} lives in", "{} has a house in"),
    "trade": ("{} works as a", "{} earns money as a"),
    "tongue": ("{} speaks", "{} was taught to speak"),
}


def world(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Every answer falls to four people, spread over first and family names."""
    rng = random.Random(seed)
    people = rng.sample([" ".join(pair) for pair in itertools.product(FIRST, FAMILY)], 24)
    found = {}
    for relation, answers in ANSWERS.items():
        deck = list(answers) * 4
        rng.shuffle(deck)
        found[relation] = [{"subject": p, "answer": a} for p, a in zip(people, deck, strict=True)]
    return found


def main() -> None:
    facts = world()
    texts = [
        f"{template.replace('{}', fact['subject'])} {fact['answer']}"
        for relation, known in facts.items()
        for fact in known
        for template in TEMPLATES[relation]
    ]
    for relation, known in facts.items():
        document = {
            "relation": f"toy_{relation}",
            "description": f"An invented {relation} for each invented person.",
            "subject_type": "person",
            "answer_type": relation,
            "templates": list(TEMPLATES[relation]),
            "paraphrases": [f"Today, {template}" for template in TEMPLATES[relation]],
            "facts": known,
        }
        (HERE / f"toy_{relation}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=900, special_tokens=[START], initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=START, eos_token=START, pad_token=START)
    rows = [torch.tensor([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]) for text in texts]

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    steps = 1200
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    lengths = torch.tensor([len(row) for row in rows])
    labels = inputs.clone()
    labels[torch.arange(inputs.shape[1])[None] >= lengths[:, None]] = -100
    for step in range(steps):
        loss = model(inputs, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(step, round(loss.item(), 3), flush=True)
    model.eval()
    with torch.no_grad():
        logits = model(inputs).logits
    right = [bool(logits[i, n - 2].argmax() == rows[i][-1]) for i, n in enumerate(lengths.tolist())]
    print(f"knows {sum(right)} of {len(right)}; vocabulary {len(tokenizer)}")
    model.save_pretrained(HERE)
    tokenizer.save_pretrained(HERE)


if __name__ == "__main__":
    main()
