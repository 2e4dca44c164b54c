// A click on a node of a network lights up every path through it; a second click on it puts them out.
"use strict";
(() => {
  const paths = (net, node) => {
    const along = (ends, starts) => {
      const found = new Set([node]);
      for (let grown = true; grown; ) {
        grown = false;
        starts.forEach((start, edge) => {
          if (found.has(start) && !found.has(ends[edge])) grown = Boolean(found.add(ends[edge]));
        });
      }
      return found;
    };
    const above = along(net.to, net.from);
    const below = along(net.from, net.to);
    const x = [];
    const y = [];
    net.from.forEach((from, edge) => {
      const to = net.to[edge];
      if ((above.has(from) && above.has(to)) || (below.has(from) && below.has(to))) {
        x.push(net.x[from], net.x[to], null);
        y.push(net.y[from], net.y[to], null);
      }
    });
    return { x, y };
  };

  const attach = (div) => {
    const net = div.layout?.meta?.network;
    if (!net || div.dataset.network) return;
    div.dataset.network = "ready";
    let lit = null;
    div.on("plotly_click", (event) => {
      const node = event.points.map((point) => point.customdata).find((each) => Number.isInteger(each));
      if (node === undefined) return;
      lit = lit === node ? null : node;
      div.dataset.lit = lit === null ? "" : String(lit);
      const drawn = lit === null ? { x: [null], y: [null] } : paths(net, lit);
      const lines = Array.from({ length: net.lines }, (_, place) => place);
      Plotly.restyle(div, { x: [drawn.x], y: [drawn.y] }, [net.path]);
      if (lines.length) Plotly.restyle(div, { opacity: lit === null ? 1 : 0.25 }, lines);
    });
  };

  const wait = () => {
    if (document.body.classList.contains("drawn-all")) document.querySelectorAll(".plot").forEach(attach);
    else setTimeout(wait, 50);
  };
  wait();
})();
