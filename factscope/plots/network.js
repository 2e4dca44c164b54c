// A click on a node of a network lights up every path through it; a second click on it puts them out. Where a button
// chooses among several sets of arrows, the paths are those of the set that is shown.
"use strict";
(() => {
  const paths = (net, ends, node) => {
    const along = (tips, starts) => {
      const found = new Set([node]);
      for (let grown = true; grown; ) {
        grown = false;
        starts.forEach((start, edge) => {
          if (found.has(start) && !found.has(tips[edge])) grown = Boolean(found.add(tips[edge]));
        });
      }
      return found;
    };
    const above = along(ends.to, ends.from);
    const below = along(ends.from, ends.to);
    const x = [];
    const y = [];
    ends.from.forEach((from, edge) => {
      const to = ends.to[edge];
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
    let ends = net.views ? net.views[0] : net; // of several views, the one that is shown
    const show = () => {
      div.dataset.lit = lit === null ? "" : String(lit);
      const drawn = lit === null ? { x: [null], y: [null] } : paths(net, ends, lit);
      const lines = Array.from({ length: net.lines }, (_, place) => place);
      Plotly.restyle(div, { x: [drawn.x], y: [drawn.y] }, [net.path]);
      if (lines.length) Plotly.restyle(div, { opacity: lit === null ? 1 : 0.25 }, lines);
    };
    div.on("plotly_click", (event) => {
      const node = event.points.map((point) => point.customdata).find((each) => Number.isInteger(each));
      if (node === undefined) return;
      lit = lit === node ? null : node;
      show();
    });
    div.on("plotly_buttonclicked", (event) => {
      if (!net.views) return;
      ends = net.views[event.active];
      div.dataset.view = String(event.active);
      if (lit !== null) show();
    });
  };

  const wait = () => {
    if (document.body.classList.contains("drawn-all")) document.querySelectorAll(".plot").forEach(attach);
    else setTimeout(wait, 50);
  };
  wait();
})();
