(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (query, from = document) => [...from.querySelectorAll(query)];
  const root = document.documentElement;
  const hash = new URLSearchParams(location.hash.slice(1));
  const state = { best: 0, only: "all", query: "", order: "place", view: {} };

  // ---- theme: the system's, unless the reader chose one ------------------------------------------------------------
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  let theme = hash.get("theme") || "auto";
  const shade = () => (printing ? "light" : theme === "auto" ? (dark.matches ? "dark" : "light") : theme);
  function paint() {
    root.dataset.theme = theme;
    root.dataset.shade = shade();
    document.getElementById("theme").textContent = "Theme: " + theme;
    draw();
  }
  document.getElementById("theme").addEventListener("click", () => {
    theme = { auto: "dark", dark: "light", light: "auto" }[theme] || "auto";
    paint();
  });
  dark.addEventListener("change", paint);
  matchMedia("(max-width: 700px)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => { printing = true; paint(); });
  addEventListener("afterprint", () => { printing = false; paint(); });

  // ---- figures -----------------------------------------------------------------------------------------------------
  let plotly = null;
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  function themed(value) {
    if (typeof value === "string" && /^\$[a-z]+$/.test(value)) return colour(value.slice(1));
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
    }
    return value;
  }
  function masked(value, keep) {
    if (Array.isArray(value) && value.length === keep.length) return value.filter((_, i) => keep[i]);
    if (value && typeof value === "object" && !Array.isArray(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, masked(inner, keep)]));
    }
    return value;
  }
  function merged(...parts) {
    const found = {};
    for (const part of parts) {
      for (const [key, value] of Object.entries(part)) {
        const both = value && typeof value === "object" && !Array.isArray(value) && typeof found[key] === "object";
        found[key] = both ? merged(found[key], value) : value;
      }
    }
    return found;
  }
  const look = () => {
    const lines = { gridcolor: "$grid", zerolinecolor: "$muted", linecolor: "$muted", tickcolor: "$muted",
      zeroline: false, ticks: "outside", ticklen: 4, automargin: true, title: { standoff: 10 } };
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", autosize: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "$ink" },
      margin: { l: 56, r: 24, t: 16, b: 48 }, xaxis: lines, yaxis: lines, dragmode: false,
      hoverlabel: { bgcolor: "$surface", bordercolor: "$muted", font: { color: "$ink", size: 12 }, align: "left" },
      legend: { font: { color: "$soft" }, itemclick: false, itemdoubleclick: false } };
  };
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
  function hover(place) {
    const row = data.rows[place];
    const swaps = row.swaps.split("  ").map((text) => `<b>${plain(text.length > 80 ? text.slice(0, 79) + "…" : text)}</b>`);
    const lines = [...swaps, `mAP50-95 ${row.map.toFixed(4)}, ${row.gflops} GFLOPs, ${row.params} M parameters`];
    const reach = row.ends.length ? ` [${row.ends.map(signed).join(", ")}]` : "";
    if (row.kind !== "base") lines.push(`Δ mAP ${signed(row.delta)}${reach}, ${data.words[row.kind]}`);
    return lines.join("<br>");
  }
  function wrap(title) { // in two lines at a space near the middle, as Plotly cuts what is too long
    if (!title.text || title.text.length < 38) return;
    const middle = title.text.length / 2;
    const spaces = [...title.text.matchAll(/ /g)].map((found) => found.index);
    const at = spaces.reduce((a, b) => (Math.abs(b - middle) < Math.abs(a - middle) ? b : a), -1);
    if (at > 0) title.text = title.text.slice(0, at) + "<br>" + title.text.slice(at + 1);
  }
  const settings = { responsive: true, displaylogo: false, displayModeBar: hash.has("only") ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
  function draw() {
    if (!plotly) return;
    const narrow = root.clientWidth < 700;
    for (const figure of data.figures) {
      const view = figure.views[state.view[figure.id] || 0];
      const traces = [...figure.traces, ...view.traces].map((trace) => {
        const { rows, style, ...rest } = trace;
        const own = { ...(style ? figure.styles[style] : {}), ...rest };
        if (rows) Object.assign(own, { text: rows.map(hover), hovertemplate: "%{text}<extra></extra>" });
        if (narrow && own.mode === "lines+text") own.mode = "lines";
        return themed(rows ? masked(own, rows.map(matches)) : own);
      });
      const layout = themed(merged(look(), figure.layout, view.layout, { height: figure.height }));
      if (narrow) wrap(layout.xaxis.title);
      const names = narrow && layout.yaxis.ticktext;
      if (names) layout.yaxis.ticktext = names.map((name) => (name.length > 22 ? name.slice(0, 21) + "…" : name));
      plotly.react("plot-" + figure.id, traces, layout, settings);
    }
    root.dataset.drawn = data.figures.length;
  }

  // ---- filter ------------------------------------------------------------------------------------------------------
  function matches(place) {
    const row = data.rows[place];
    if (row.kind === "base") return true;
    if (state.only === "confirmed" && row.kind === "single") return false;
    if (state.only === "front" && !row.front) return false;
    return state.query.split(/\s+/).every((word) => row.text.includes(word));
  }
  function filter() {
    if (!data.rows.length) return;
    const found = data.rows.map((_, place) => place).filter((place) => matches(place) && data.rows[place].kind !== "base");
    if (state.order === "delta") found.sort((a, b) => data.rows[b].delta - data.rows[a].delta);
    const shown = state.best ? found.slice(0, state.best) : found;
    const rank = new Map(shown.map((place, i) => [place, i]));
    const parts = document.getElementById("parts");
    for (const table of $("table.forest, table.ranking")) {
      const body = table.tBodies[0];
      const lines = [...body.rows];
      const only = table.id === "ranking" && parts && parts.checked;
      const at = (line) => (data.rows[line.dataset.place].kind === "base" ? -1 : rank.get(+line.dataset.place) ?? Infinity);
      for (const line of lines) line.hidden = only ? line.dataset.part === "0" : at(line) === Infinity;
      lines.sort((a, b) => (table.id === "ranking" && state.order === "place"
        ? a.dataset.place - b.dataset.place : at(a) - at(b) || a.dataset.place - b.dataset.place));
      body.append(...lines);
    }
    const left = found.length - shown.length;
    for (const more of $("[data-more]")) {
      more.hidden = !left;
      more.textContent = left ? `${left} more; “Show best” lists them.` : "";
    }
    const count = document.getElementById("count");
    if (count) count.textContent = `${shown.length} of ${data.rows.filter((r) => r.kind !== "base").length}`;
  }
  function changed() { filter(); draw(); }
  const on = (id, event, then) => document.getElementById(id)?.addEventListener(event, then);
  on("best", "change", (e) => { state.best = +e.target.value; changed(); });
  on("order", "change", (e) => { state.order = e.target.value; changed(); });
  on("query", "input", (e) => { state.query = e.target.value.trim().toLowerCase(); changed(); });
  on("parts", "change", changed);
  for (const button of $("[data-only]")) {
    button.addEventListener("click", () => {
      state.only = button.dataset.only;
      for (const other of $("[data-only]")) other.setAttribute("aria-pressed", String(other === button));
      changed();
    });
  }
  for (const views of $(".views")) {
    views.querySelector("select").addEventListener("change", (e) => {
      state.view[views.dataset.for] = +e.target.value;
      draw();
    });
  }

  // ---- copying -----------------------------------------------------------------------------------------------------
  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1200);
  }
  const FORMS = {
    csv: (lines) => lines.map((cells) => cells.map(
      (c) => (/[",\n]/.test(c) ? `"${c.replaceAll('"', '""')}"` : c)).join(",")).join("\n") + "\n",
    markdown: (lines) => {
      const line = (cells) => `| ${cells.map((c) => c.replaceAll("\\", "\\\\").replaceAll("|", "\\|")
        .replaceAll("<", "&lt;")).join(" | ")} |`;
      const rule = `|${lines[0].map((_, i) => (i === 0 || i === 6 ? "---" : "---:")).join("|")}|`;
      return [line(lines[0]), rule, ...lines.slice(1).map(line)].join("\n") + "\n";
    },
    latex: (lines) => {
      const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
        "Δ": "$\\Delta$", "±": "$\\pm$", "−": "$-$" };
      const cell = (c) => c.replace(/[\\&%$#_{}~^Δ±−]/g, (s) => special[s] || "\\" + s)
        .replace(/^-(?=\d)/, "$-$").replace(/^\+(?=\d)/, "$+$");
      const line = (cells) => `${cells.map(cell).join(" & ")} \\\\`;
      const columns = lines[0].map((_, i) => (i === 0 || i === 6 ? "l" : "r")).join("");
      return [`\\begin{tabular}{${columns}}`, "\\toprule", line(lines[0]), "\\midrule", ...lines.slice(1).map(line),
        "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
    },
  };
  function tableText(form) {
    const table = document.getElementById("ranking");
    const text = (cell) => cell.querySelector(".clip") ? data.rows[cell.parentNode.dataset.place].swaps : [...cell.childNodes].filter((n) => n.nodeType === 3)
      .map((n) => n.data).join("").trim().replaceAll("−", "-");
    const lines = [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(text));
    return FORMS[form](lines);
  }
  for (const button of $("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy, button));
  for (const button of $("[data-table]")) {
    button.addEventListener("click", () => copy(tableText(button.dataset.table), button));
  }

  // ---- start: the text is painted before Plotly is read ------------------------------------------------------------
  const only = hash.get("only");
  if (only) {
    for (const part of $(".head, .bar, footer, main > section")) part.hidden = part.id !== only;
  }
  for (const row of data.rows) row.text = `${row.swaps} ${row.id}`.toLowerCase();
  for (const line of $("tr[data-place]")) {
    const clip = line.querySelector(".clip");
    if (clip) clip.title = data.rows[line.dataset.place].swaps;
  }
  const best = document.getElementById("best");
  if (best) state.best = +best.value;
  filter();
  paint();
  function start() {
    const source = document.getElementById("plotly");
    if (source) {
      const script = document.createElement("script");
      script.textContent = source.textContent;
      source.remove();
      document.head.append(script);
      plotly = window.Plotly;
      draw();
    }
    for (const section of $("main > section")) section.dataset.height = Math.ceil(section.getBoundingClientRect().height);
    root.dataset.ready = "1";
  }
  addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => setTimeout(start, 0)));
  window.nasReport = { tableText };
})();
