// Draws the figures, keeps them in the colours of the reader's theme, sorts tables, copies commands.
// Everything here adds to a page that can be read without it.
"use strict";

// What stands compressed in the page: plotly, the data of figures, the drawings behind a slider. The block is taken out.
const unpacked = async (block) => {
  const bytes = Uint8Array.from(atob(block.textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const text = await new Response(stream).text();
  block.remove();
  return text;
};
const PACKED = "script[type='application/gzip']";

(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");

  // A dark figure is the light one with some values replaced: [[path, value], ...].
  const themed = (figure, theme) => {
    const copy = structuredClone({ data: figure.data, layout: figure.layout });
    if (theme === "dark") {
      for (const [path, value] of figure.dark) {
        const last = path[path.length - 1];
        path.slice(0, -1).reduce((inside, key) => inside[key], copy)[last] = value;
      }
    }
    if (touch.matches) copy.layout.dragmode = false; // a finger on a figure scrolls the page
    return copy;
  };

  // A saved picture is always light, on white, and carries its title: it will be read elsewhere.
  const save = (figure, format) => (div) => {
    const copy = themed(figure, "light");
    copy.layout.paper_bgcolor = "#ffffff";
    const above = 14 + 20 * figure.title.split("<br>").length;
    const size = { width: div.clientWidth, height: div.clientHeight + above };
    copy.layout.title = { text: figure.title, x: 0.012, y: 1 - 10 / size.height, yanchor: "top", font: { size: 15 } };
    copy.layout.margin.t += above;
    Object.assign(copy.layout, size);
    const name = figure.config.toImageButtonOptions.filename;
    Plotly.downloadImage({ ...copy, config: figure.config }, { format, filename: name, scale: 3, ...size });
  };

  const button = (figure, format) => ({
    name: `Save as ${format.toUpperCase()}`,
    icon: Plotly.Icons[format === "png" ? "camera" : "disk"],
    click: save(figure, format),
  });

  // The library is in the page, compressed, and its hash in the page's policy; a light page has loaded it before.
  const library = async () => {
    const packed = document.getElementById("plotly");
    if (!packed) return;
    const script = document.createElement("script");
    script.textContent = await unpacked(packed);
    document.head.append(script);
    script.remove();
  };

  const read = async (div) => {
    const figure = JSON.parse(await unpacked(div.querySelector(PACKED)));
    figure.config.modeBarButtonsToRemove.push("toImage");
    figure.config.modeBarButtonsToAdd = [button(figure, "png"), button(figure, "svg")];
    return { div, figure };
  };

  // Paper is narrower than a window and does not scroll: there a figure is as wide as the sheet or as half of it, and
  // one that needs more room for its labels is made smaller instead of cut off. Print rules read --on-paper.
  const SHEET = 680, HALF = 310, NARROW = 360; // CSS pixels: A4 less its margins; a column; what a figure is drawn for
  const onPaper = ({ div, figure }) => {
    const whole = div.closest(".drawn").matches(".wide, :only-child");
    const width = Math.max(whole ? SHEET : NARROW, parseInt(div.style.minWidth) || 0);
    div.style.setProperty("--on-paper", (whole ? SHEET : HALF) / width);
    const { data, layout } = themed(figure, "light");
    return Plotly.react(div, data, { ...layout, width }, figure.config);
  };

  const start = async () => {
    const figures = await Promise.all([...document.querySelectorAll(".plot")].map(read));
    const draw = (theme) =>
      Promise.all(
        figures.map(({ div, figure }) => {
          const { data, layout } = themed(figure, theme);
          return Plotly.react(div, data, layout, figure.config);
        }),
      );
    const current = () => draw(dark.matches ? "dark" : "light");
    current().then(() => document.body.classList.add("drawn-all"));
    dark.addEventListener("change", current);
    addEventListener("beforeprint", () => figures.forEach(onPaper));
    addEventListener("afterprint", current);
  };

  const refused = () => {
    for (const div of document.querySelectorAll(".plot")) {
      div.textContent = "This browser cannot unpack the page's figures; a newer one can.";
    }
  };
  library().then(start).catch((error) => ("DecompressionStream" in window ? Promise.reject(error) : refused()));

  // Tables: a click on a header sorts by it, a second one turns the order round; empty cells stay last.
  const collator = new Intl.Collator(undefined, { numeric: true });
  const key = (row, place) => {
    const cell = row.cells[place];
    if ("value" in cell.dataset) return Number(cell.dataset.value);
    return cell.textContent === "–" ? null : cell.textContent;
  };
  const order = (one, other) =>
    typeof one === "number" && typeof other === "number" ? one - other : collator.compare(one, other);

  for (const table of document.querySelectorAll(".factscope table")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, place) => {
      const handle = document.createElement("button");
      handle.type = "button";
      handle.append(...header.childNodes);
      header.append(handle);
      handle.addEventListener("click", () => {
        const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        headers.forEach((each) => each.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row, place) }));
        rows.sort((one, other) => {
          if (one.key === null || other.key === null) return (one.key === null) - (other.key === null);
          return direction * order(one.key, other.key);
        });
        table.tBodies[0].append(...rows.map(({ row }) => row));
      });
    });
  }

  for (const command of document.querySelectorAll(".factscope pre.command")) {
    const handle = document.createElement("button");
    const text = command.querySelector("code");
    handle.type = "button";
    handle.textContent = "Copy";
    handle.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        handle.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text); // no clipboard for this page: Ctrl-C is one key away
        handle.textContent = "Selected";
      }
      setTimeout(() => (handle.textContent = "Copy"), 2000);
    });
    command.append(handle);
  }
})();
