// A network's slider and buttons choose which of its drawn pictures is seen; pointing at a node or choosing it leaves its
// paths alone, and lists what it reads and what reads it. Escape, or the node again, shows everything.
"use strict";
(() => {
  const MOST = 12; // lines of a list

  // The nodes on a path through one node, and whether an edge is: both ends above it, or both below.
  const through = (edges, node) => {
    const along = (tips, starts) => {
      const found = new Set([node]);
      for (let grown = true; grown; ) {
        grown = false;
        for (const edge of edges) {
          if (found.has(edge[starts]) && !found.has(edge[tips])) grown = Boolean(found.add(edge[tips]));
        }
      }
      return found;
    };
    const above = along("to", "from");
    const below = along("from", "to");
    const has = ({ from, to }) => (above.has(from) && above.has(to)) || (below.has(from) && below.has(to));
    return { nodes: new Set([...above, ...below]), has };
  };

  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };

  const read = async (figure) => {
    const stages = [...figure.querySelectorAll(".stage")];
    const behind = stages.filter((stage) => stage.querySelector(PACKED));
    await Promise.all(
      behind.map(async (stage) => (stage.innerHTML = await unpacked(stage.querySelector(PACKED)))), // our own SVG, escaped
    );
    start(figure, stages, JSON.parse(await unpacked(figure.querySelector(PACKED))));
  };

  const start = (figure, stages, data) => {
    const slider = figure.querySelector("input[type=range]");
    const buttons = [...figure.querySelectorAll(".views button")];
    const select = figure.querySelector("select");
    const told = figure.querySelector(".told");
    let level = slider ? Number(slider.value) : 0;
    let view = 0;
    let chosen = null;

    const current = () =>
      stages.find((each) => Number(each.dataset.level) === level && Number(each.dataset.view) === view);
    const nodesOf = (stage) => [...stage.querySelectorAll(".node")];
    const edgesOf = (stage) =>
      [...stage.querySelectorAll(".edge")].map((g) => ({ g, from: Number(g.dataset.from), to: Number(g.dataset.to) }));

    const light = (node) => {
      const stage = current();
      if (!stage) return;
      const marks = nodesOf(stage);
      const there = node !== null && marks.some((mark) => Number(mark.dataset.node) === node);
      const edges = edgesOf(stage);
      const path = there ? through(edges, node) : null;
      stage.querySelector("svg").classList.toggle("choosing", there);
      for (const edge of edges) edge.g.classList.toggle("on", Boolean(path?.has(edge)));
      for (const mark of marks) {
        const own = Number(mark.dataset.node);
        mark.classList.toggle("on", Boolean(path?.nodes.has(own)));
        mark.classList.toggle("chosen", there && own === chosen);
        mark.setAttribute("aria-pressed", String(own === chosen));
      }
    };

    const value = (number) => (number > 0 ? "+" : "") + Number(number.toPrecision(3)) + (data.unit ? ` ${data.unit}` : "");
    const list = (title, edges, end) => {
      const part = document.createElement("div");
      part.append(element("h4", `${title}: ${edges.length}`));
      const lines = document.createElement("ol");
      edges.sort((one, other) => Math.abs(other[2]) - Math.abs(one[2]));
      for (const edge of edges.slice(0, MOST)) {
        const line = element("li", "");
        const go = element("button", data.nodes[edge[end]][0]);
        go.type = "button";
        go.addEventListener("click", () => choose(edge[end]));
        line.append(go, ` ${value(edge[2])}`);
        lines.append(line);
      }
      part.append(lines);
      if (edges.length > MOST) part.append(element("p", `and ${edges.length - MOST} smaller`));
      return part;
    };

    const tell = () => {
      told.replaceChildren();
      if (chosen === null) return;
      const [name, hover] = data.nodes[chosen];
      const first = document.createElement("div");
      first.append(element("h4", name), ...hover.split("\n").map((line) => element("p", line)));
      const drawn = nodesOf(current()).some((mark) => Number(mark.dataset.node) === chosen);
      if (!drawn) first.append(element("p", "It is on none of the paths that are drawn."));
      const edges = data.views[view];
      told.append(
        first,
        list("reads from", edges.filter((edge) => edge[1] === chosen), 0),
        list("is read by", edges.filter((edge) => edge[0] === chosen), 1),
      );
    };

    const show = () => {
      for (const stage of stages) stage.hidden = stage !== current();
      figure.querySelector("output").textContent = current()?.dataset.said ?? "";
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === view)));
      if (slider) slider.value = level;
      if (select) select.value = chosen === null ? "" : String(chosen);
      light(chosen);
      tell();
    };

    const choose = (node) => {
      chosen = node;
      const holds = (stage) => nodesOf(stage).some((mark) => Number(mark.dataset.node) === node);
      if (node !== null && !holds(current())) {
        const wider = stages.filter((each) => Number(each.dataset.view) === view && holds(each));
        if (wider.length) level = Math.min(...wider.map((each) => Number(each.dataset.level)));
      }
      show();
    };

    slider?.addEventListener("input", () => {
      level = Number(slider.value);
      show();
    });
    buttons.forEach((button, place) =>
      button.addEventListener("click", () => {
        view = place;
        show();
      }),
    );
    if (select) {
      select.append(new Option("none chosen", ""), ...data.nodes.map(([name], place) => new Option(name, place)));
      select.addEventListener("change", () => choose(select.value === "" ? null : Number(select.value)));
    }
    for (const stage of stages) {
      for (const mark of nodesOf(stage)) {
        const node = Number(mark.dataset.node);
        mark.querySelector("title").textContent = data.nodes[node].join("\n");
        mark.addEventListener("click", () => choose(chosen === node ? null : node));
        mark.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          choose(chosen === node ? null : node);
        });
        mark.addEventListener("mouseenter", () => chosen === null && light(node));
        mark.addEventListener("mouseleave", () => chosen === null && light(null));
      }
    }
    figure.addEventListener("keydown", (event) => event.key === "Escape" && choose(null));
    show();
    figure.dataset.network = "ready";
  };

  if ("DecompressionStream" in window) {
    for (const figure of document.querySelectorAll(".factscope .network")) read(figure);
  } // else the first drawing stands there, and names itself where it is pointed at
})();
