"use strict";
// Draws the figures of the page from the JSON in it, and sorts its tables.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const symbols = ["circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon"];
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ink = (color) => color === "#000000" ? css("--ink") : color;
  const faint = (color) => ink(color) + "2e";

  function interval(s, color) {
    return {type: "data", symmetric: false, color, thickness: 1.4, width: 4,
            array: s.high.map((v, i) => v === null ? 0 : v - s.y[i]),
            arrayminus: s.low.map((v, i) => v === null ? 0 : s.y[i] - v)};
  }

  function band(s, color) {
    return {x: s.x.concat(s.x.slice().reverse()), y: s.high.concat(s.low.slice().reverse()),
            fill: "toself", fillcolor: faint(s.color), line: {width: 0}, mode: "lines",
            hoverinfo: "skip", name: s.name, color};
  }

  // One series of a panel as traces of Plotly.
  function traces(s) {
    const color = ink(s.color), trace = {
      x: s.x, y: s.y, name: s.name, customdata: s.anchors, text: s.texts,
      mode: s.drawn === "marks" ? "markers"
          : s.drawn === "steps" || s.x.length > 40 ? "lines" : "lines+markers",
      line: {color, width: 2, dash: dashes[s.dash], shape: s.drawn === "steps" ? "hv" : "linear"},
      marker: {color, size: s.kind === "seed" ? 6 : 8, opacity: s.kind === "seed" ? 0.55 : 1,
               symbol: symbols[s.marker] + (s.hollow ? "-open" : ""), line: {width: s.hollow ? 2 : 0}},
      hovertemplate: "%{y:.4~g} at %{x:.6~g}<br>%{text}<extra>" +
                     (s.name || "").replace(/[<>&]/g, " ") + "</extra>",
    };
    const out = [];
    if (s.low && s.drawn === "line") {
      out.push(band(s));
    } else if (s.low) {
      trace.error_y = interval(s, color);
    }
    out.push(trace);
    return out;
  }

  function axis(a) {
    const out = {title: {text: a.label, font: {size: 13}}, gridcolor: css("--line"),
                 zeroline: false, linecolor: css("--quiet"), ticks: "outside",
                 tickcolor: css("--line"), automargin: true};
    if (a.log) {
      Object.assign(out, {type: "log", tickvals: a.ticks.map((t) => t[0]),
                          ticktext: a.ticks.map((t) => t[1]),
                          range: [Math.log10(a.low), Math.log10(a.high)]});
    } else if (a.max > a.min) {
      out.range = [a.min, a.max];
    }
    return out;
  }

  function draw(panel, place, hidden) {
    const data = panel.series.filter((s) => !hidden.has(s.name)).flatMap(traces);
    const layout = {
      title: {text: panel.title, font: {size: 14}, x: 0.02, xanchor: "left"},
      xaxis: axis(panel.x), yaxis: axis(panel.y), showlegend: false, hovermode: "closest",
      margin: {l: 56, r: 16, t: 40, b: 48}, paper_bgcolor: css("--page"),
      plot_bgcolor: css("--page"),
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--text")},
      shapes: panel.mark ? [{type: "line", x0: panel.mark, x1: panel.mark, y0: 0, y1: 1,
                             yref: "paper", line: {dash: "dash", width: 1, color: css("--quiet")}}]
                         : [],
    };
    const config = {responsive: true, displaylogo: false,
                    displayModeBar: false, showTips: false};
    Plotly.react(place, data, layout, config);
    place.removeAllListeners?.("plotly_click");
    place.on("plotly_click", (event) => {
      const anchor = event.points[0]?.customdata;
      if (anchor) { location.hash = anchor; }
    });
  }

  // A line with its mark, as the panels have it.
  function swatch(s) {
    const paths = ["M13 3a4 4 0 1 0 .01 0z", "M9 3h8v8h-8z", "M13 2.5l4.7 8.2h-9.4z",
                   "M13 2l5 5-5 5-5-5z", "M13 11.5l4.7-8.2h-9.4z", "M13 2.5l4.6 3.4-1.8 5.4h-5.6l-1.8-5.4z"];
    const color = s.color === "#000000" ? "var(--ink)" : s.color;
    const dash = ["", "6 3", "2 3", "6 3 2 3"][s.dash];
    return `<svg width="26" height="14" aria-hidden="true">` +
        (s.drawn === "marks" ? "" : `<path d="M0 7H26" stroke="${color}" stroke-width="2" stroke-dasharray="${dash}"/>`) +
        (s.drawn === "steps" ? "" : `<path d="${paths[s.marker]}" stroke="${color}" stroke-width="1.5" fill="${s.hollow ? "none" : color}"/>`) + `</svg>`;
  }

  function show(figure) {
    const root = document.getElementById(figure.id);
    const legend = root.querySelector(".legend"), places = root.querySelectorAll(".panel");
    const hidden = new Set(), named = new Map();
    const redraw = () => figure.panels.forEach((p, i) => draw(p, places[i], hidden));
    for (const s of figure.panels.flatMap((p) => p.series)) {
      if (s.label && !named.has(s.name)) { named.set(s.name, s); }
    }
    for (const [name, s] of named) {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.title = "show or hide";
      button.innerHTML = swatch(s);
      button.append(s.label);
      button.addEventListener("click", () => {
        const off = !hidden.delete(name);
        if (off) { hidden.add(name); }
        button.setAttribute("aria-pressed", String(!off));
        redraw();
      });
      legend.append(button);
    }
    redraw();
    return redraw;
  }

  function sortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = cell.querySelector("button");
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) { other.removeAttribute("aria-sort"); }
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const rows = [...body.rows].sort((a, b) => {
          const x = key(a), y = key(b), m = parseFloat(x), n = parseFloat(y);
          const order = isNaN(m) || isNaN(n) ? x.localeCompare(y, undefined, {numeric: true}) : m - n;
          return up ? order : -order;
        });
        body.append(...rows);
      });
    });
  }

  // A link to a run opens it.
  function open() {
    const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
    for (let at = target; at; at = at.parentElement) {
      if (at instanceof HTMLDetailsElement) { at.open = true; }
    }
    target?.querySelector("summary")?.focus({preventScroll: true});
    target?.scrollIntoView();
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  if (window.Plotly) {
    const redraws = figures.map(show);
    dark.addEventListener("change", () => redraws.forEach((redraw) => redraw()));
  }
  addEventListener("hashchange", open);
  open();
})();
