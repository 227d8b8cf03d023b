const one = (selector, place = document) => place.querySelector(selector);
const all = (selector, place = document) => [...place.querySelectorAll(selector)];
const data = JSON.parse(one("#data").textContent);
const facetsOf = (element) => JSON.parse(element.dataset.facets);

// Tables: sorted by the number behind a cell; what is missing comes last, in both directions.
const PAGE = 50;
const order = (sign) => (a, b) => (a === "") - (b === "") || sign * (a - b);
const DataTable = await (window.dataTables ?? Promise.resolve()).then((module) => module?.default);
const tables = new Map();
if (DataTable) {
  DataTable.ext.errMode = "throw";
  DataTable.type("measured", { order: { asc: order(1), desc: order(-1) } });
  for (const element of all("table.rows")) {
    const paged = element.tBodies[0].rows.length > PAGE;
    tables.set(element, new DataTable(element, {
      autoWidth: false, info: false, order: [], paging: paged, pageLength: PAGE,
      layout: { topStart: null, topEnd: null, bottomStart: paged ? "paging" : null, bottomEnd: null },
      language: { zeroRecords: "No row passes the filters.", emptyTable: "There are no rows yet." },
      columnDefs: [
        { targets: "plain", orderable: false },
        { targets: "falling", orderSequence: ["desc", "asc", ""] },
        { targets: "measured", type: "measured" },
      ],
    }));
  }
}
one("#no-libraries").hidden = Boolean(DataTable && window.Plotly);

// Filters: a row that says nothing about a facet passes it.
const filters = one(".filters");
const chosen = new Map();
const passes = (facets) => [...chosen].every(
  ([name, values]) => !values.size || !facets[name] || facets[name].some((each) => values.has(each)));

function filter() {
  for (const facet of all(".facet")) {
    const values = all("input:checked", facet).map((box) => box.value);
    chosen.set(facet.dataset.facet, new Set(values));
    facet.classList.toggle("active", values.length > 0);
    one(".chosen", facet).textContent = values.length > 1 ? `${values.length} chosen` : values[0] ?? "all";
  }
  const text = one("input[type=search]", filters).value.trim();
  const finds = (element) => element.textContent.toLowerCase().includes(text.toLowerCase());
  let shown = 0, total = 0;
  for (const section of all(".board")) section.hidden = !passes({ protocol: [section.dataset.protocol] });
  for (const element of all("table.rows")) {
    const table = tables.get(element);
    if (table) {
      const attacks = chosen.get("attack") ?? new Set();
      table.columns("[data-attack]").every(function () {
        this.visible(!attacks.size || attacks.has(this.header().dataset.attack), false);
      });
      table.search.fixed("facets", (_, row, index) => passes(facetsOf(table.row(index).node())));
      table.search(text).draw();
      shown += table.rows({ search: "applied" }).count();
      total += table.rows().count();
    } else {
      for (const row of element.tBodies[0].rows) {
        row.hidden = !(passes(facetsOf(row)) && finds(row));
        shown += !row.hidden;
        total += 1;
      }
    }
  }
  for (const item of all(".pictures li")) item.hidden = !(passes(facetsOf(item)) && finds(item));
  one(".count", filters).textContent = shown < total ? `${shown} of ${total} rows` : `${total} rows`;
  for (const name of Object.keys(data.plots)) draw(name);
}

// Plots: colours come from the style sheet, so they follow light and dark.
const picked = {};
function coloured(value) {
  if (typeof value === "string" && value.startsWith("var(")) {
    return getComputedStyle(document.documentElement).getPropertyValue(value.slice(4, -1)).trim();
  }
  if (Array.isArray(value)) return value.map(coloured);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each)]));
  }
  return value;
}

function draw(name) {
  const plot = data.plots[name][picked[name] ?? 0];
  const place = document.getElementById(`plot-${name}`);
  if (!plot || !window.Plotly || place.closest("[hidden]")) return;
  const figure = coloured(plot);
  for (const trace of figure.data) trace.visible = passes({ defense: [trace.meta] }) ? true : "legendonly";
  const image = { format: "svg", filename: `${name} ${plot.title}` };
  Plotly.react(place, figure.data, figure.layout,
    { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]], toImageButtonOptions: image });
  if (!place.dataset.clickable) {
    place.dataset.clickable = "yes";
    place.on("plotly_click", ({ points: [point] }) => {
      const text = `${point.data.meta}: natural ${point.x.toFixed(1)} %, attack ${point.y.toFixed(1)} %`;
      if (point.customdata.length) showRow(text, point.customdata, data.records[point.customdata[0]].command, []);
    });
  }
}
for (const select of all("select[data-plot]")) {
  select.addEventListener("change", () => { picked[select.dataset.plot] = Number(select.value); draw(select.dataset.plot); });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change",
  () => Object.keys(data.plots).forEach(draw));

// The dialog of a row: its command and its records.
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function showRow(title, files, command, reasons) {
  const dialog = one("#row");
  const groups = new Map();
  for (const file of files) {
    const record = data.records[file];
    groups.set(record.label, [...groups.get(record.label) ?? [], record]);
  }
  one("h2", dialog).textContent = title;
  one("#row-command").textContent = command;
  one(".made", dialog).hidden = !command;
  one(".records", dialog).hidden = !files.length;
  one(".records ul", dialog).replaceChildren(...[...groups].map(([label, records]) => element("li", {}, `${label}: `,
    ...records.flatMap((record, k) => [k ? ", " : "", element("a", { href: record.href }, `seed ${record.seed}`),
      ...record.picture ? [" (", element("a", { href: record.picture }, "picture"), ")"] : []]))));
  one(".reasons", dialog).hidden = !reasons.length;
  one(".reasons ul", dialog).replaceChildren(...reasons.map((reason) => element("li", {}, reason)));
  dialog.showModal();
}

// The dialog of a picture, and its neighbours.
let current = null;
function showPicture(button) {
  const dialog = one("#picture"), image = one("img", dialog), small = one("img", button);
  current = button;
  one("h2", dialog).textContent = button.dataset.title;
  one("a", dialog).href = button.dataset.record;
  Object.assign(image, { src: small.src, alt: small.alt });
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function step(by) {
  const buttons = all(".picture").filter((button) => button.offsetParent);
  showPicture(buttons[(buttons.indexOf(current) + by + buttons.length) % buttons.length]);
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch { // without the permission: what is selected can be copied by hand
    getSelection().selectAllChildren(text);
    if (!document.execCommand("copy")) return;
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target instanceof HTMLDialogElement) event.target.close(); // the backdrop
  else if (button?.matches(".source")) {
    const { files, command, reasons } = button.dataset;
    const names = all(".text", button.closest("tr")).filter((cell) => !cell.contains(button)).slice(0, 4);
    showRow(names.map((cell) => cell.textContent.trim()).filter(Boolean).join(" · "), JSON.parse(files), command, JSON.parse(reasons));
  } else if (button?.matches(".picture")) showPicture(button);
  else if (button?.dataset.step) step(Number(button.dataset.step));
  else if (button?.dataset.copy) copy(button);
  for (const facet of all(".facet[open]")) facet.open = facet.contains(event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const facet of all(".facet[open]")) {
      facet.open = false;
      one("summary", facet).focus();
    }
  }
  if (one("#picture").open && event.key === "ArrowRight") step(1);
  if (one("#picture").open && event.key === "ArrowLeft") step(-1);
});
if (filters) {
  filters.hidden = false;
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));
  filter();
}
