// The report's charts, theme and table: inlined into report.html by plugins/plugin_utils/_page.py, after Vega-Lite's bundle.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const at = (id) => document.getElementById(id);

// -- theme and charts ---------------------------------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = null; // by the button; else the system's
let views = [];
let drawing = 0;

async function draw() {
  const theme = chosen || (dark.matches ? "dark" : "light");
  const turn = ++drawing;
  root.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "☀ Light" : "☾ Dark";
  views.forEach((view) => view.finalize());
  views = [];
  const narrow = innerWidth < 640;
  const config = narrow ? phone(data.themes[theme]) : data.themes[theme];
  for (const place of document.querySelectorAll("[data-chart]")) {
    const spec = { ...data.charts[place.dataset.chart], autosize: { type: "fit-x", contains: "padding" } };
    const renderer = (spec.data.values || []).length > 1200 ? "canvas" : "svg"; // text that can be selected, unless that is slow
    const view = await vegaEmbed(place, spec, { config, actions: false, renderer, tooltip: { theme } });
    if (turn !== drawing) return view.finalize(); // another one has begun meanwhile
    views.push(view);
  }
  root.dataset.drawn = theme;
}

function phone(config) {
  return { ...config, axisY: { ...config.axisY, labelLimit: 104 }, legend: { ...config.legend, columns: 2, labelFontSize: 11 } };
}

at("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  draw();
});
dark.addEventListener("change", draw);

// -- table --------------------------------------------------------------------------------------------------------------
const { columns, rows } = data.runs;
const texts = ["host", "method", "outcome"].map((name) => columns.indexOf(name));
const [METHOD, OUTCOME] = [columns.indexOf("method"), columns.indexOf("outcome")];
const STEP = 100;
const collator = new Intl.Collator(undefined, { numeric: true });
const state = { column: null, down: false, shown: STEP };
let found = rows;

function select() {
  const words = at("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const method = at("method").value;
  const outcome = at("outcome").value;
  found = rows.filter((row) => {
    if (method && row[METHOD] !== method) return false;
    if (outcome && (row[OUTCOME] === "ok") !== (outcome === "ok")) return false;
    return words.every((word) => texts.some((column) => row[column].toLowerCase().includes(word)));
  });
  if (state.column !== null) {
    const { column, down } = state;
    found.sort((left, right) => {
      const [a, b] = [left[column], right[column]];
      if (a === null || b === null) return (a === null) - (b === null); // what is not there goes last, either way
      return (typeof a === "string" ? collator.compare(a, b) : a - b) * (down ? -1 : 1);
    });
  }
  state.shown = STEP;
  show();
}

function show() {
  const body = document.createDocumentFragment();
  for (const row of found.slice(0, state.shown)) {
    const line = document.createElement("tr");
    row.forEach((value, column) => {
      const cell = line.insertCell();
      cell.textContent = value === null ? "–" : column > OUTCOME && columns[column] !== "load" ? value.toFixed(3) : value;
      if (column === OUTCOME && value !== "ok") cell.className = "bad";
    });
    body.append(line);
  }
  document.querySelector("#table tbody").replaceChildren(body);
  at("count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs`;
  at("more").hidden = state.shown >= found.length;
  document.querySelectorAll("#table th").forEach((head, column) => {
    if (column === state.column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

const heads = document.querySelector("#table thead").insertRow();
columns.forEach((name, column) => {
  const head = document.createElement("th");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => {
    state.down = state.column === column ? !state.down : false;
    state.column = column;
    select();
  });
  head.append(button);
  heads.append(head);
});
for (const id of ["text", "method", "outcome"]) at(id).addEventListener("input", select);
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("more").addEventListener("click", () => {
  state.shown += STEP * 5;
  show();
});

draw();
select();
