{% include "tables.js" %}

// What a link to a paper is to: each title stands once, in the data.
for (const link of document.links) link.title = data.papers[link.getAttribute("href")] ?? "";

// Records: of each protocol by the name of the file, which lies in its folder.
const protocolOf = (place) => place.closest("[data-protocol]")?.dataset.protocol;
const filesOf = (place) => place.matches("img") ? [fileOf(place)] : JSON.parse(place.dataset.files ?? "[]");
const fileOf = (image) => decodeURIComponent(image.getAttribute("src").split("/").pop().replace(/\.png$/, ""));
function read(protocol, file) {
  const { of, ...more } = data.records[protocol][file];
  return { protocol, ...more, ...Object.fromEntries(data.facets.map((name, k) => [name, of[k]])) };
}
function recordOf(protocol, file) {
  const { settings, picture, command, ...record } = read(protocol, file);
  const at = (folder, suffix) => [folder, protocol, file].map(encodeURIComponent).join("/") + suffix;
  return {
    ...record, href: at("records", ".json"), picture: picture && at("galleries", ".png"),
    label: `${record.attack} · ${record.defense} · ${record.architecture}${settings ? ` (${settings})` : ""}`,
    command: command ?? `mibench run --protocol ${protocol} --attack ${record.attack} --defense ${record.defense} --seed ${record.seed}`,
  };
}

// What filters know of a row or picture: what its records are of, or what it tells itself.
const facetNames = all(".facet").map((facet) => facet.dataset.facet);
function facetsOf(place) {
  if (place.dataset.facets) return JSON.parse(place.dataset.facets);
  const protocol = protocolOf(place);
  const records = filesOf(one("img, [data-files]", place)).map((file) => read(protocol, file));
  return Object.fromEntries(facetNames.map((name) => [name, records.map((record) => record[name])]));
}

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
  const words = one("input[type=search]", filters).value.toLowerCase().split(/\s+/).filter(Boolean);
  const finds = (place) => words.every((word) => place.textContent.toLowerCase().includes(word));
  let shown = 0, total = 0;
  for (const section of all(".board[data-protocol]")) section.hidden = !passes({ protocol: [section.dataset.protocol] });
  const attacks = chosen.get("attack") ?? new Set();
  for (const table of tables) {
    for (const head of all("th[data-attack]", table.place)) {
      const hidden = attacks.size > 0 && !attacks.has(head.dataset.attack);
      for (const row of table.place.rows) row.cells[head.cellIndex].hidden = hidden;
    }
    for (const row of table.rows) {
      const there = passes(facetsOf(row)) && finds(row);
      row.dataset.passes = there ? "yes" : "no";
      shown += there;
      total += 1;
    }
    page(table);
  }
  for (const item of all(".pictures li")) item.hidden = !(passes(facetsOf(item)) && finds(item));
  one(".count", filters).textContent = shown < total ? `${shown} of ${total} rows` : `${total} rows`;
  for (const name of Object.keys(data.plots)) draw(name);
}

// Plots: as wide as the page, in the colours of the style sheet.
const picked = {};
const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const MARKERS = {
  circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  square: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  diamond: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
  up: (r) => `M0,${-1.2 * r}L${1.2 * r},${r}H${-1.2 * r}z`,
  down: (r) => `M0,${1.2 * r}L${1.2 * r},${-r}H${-1.2 * r}z`,
  cross: (r) => `M${-r / 3},${-r}h${2 * r / 3}v${2 * r / 3}h${2 * r / 3}v${2 * r / 3}h${-2 * r / 3}v${2 * r / 3}h${-2 * r / 3}v${-2 * r / 3}h${-2 * r / 3}v${-2 * r / 3}h${2 * r / 3}z`,
  star: (r) => `M${Array.from({ length: 10 }, (_, k) => {
    const [size, angle] = [k % 2 ? 0.55 * r : 1.35 * r, Math.PI * k / 5];
    return `${size * Math.sin(angle)},${-size * Math.cos(angle)}`;
  }).join("L")}z`,
};

function draw(name) {
  const plot = data.plots[name][picked[name] ?? 0];
  const place = document.getElementById(`plot-${name}`);
  if (!plot || place.closest("[hidden]")) return;
  const wide = Math.max(place.clientWidth, 240), high = Math.round(Math.min(460, 230 + wide / 4));
  // Names of references stand beside the axes, where no point is.
  const narrow = wide < 600, named = plot.references.map((each) => narrow ? each.name : each.label);
  const left = 50, right = Math.max(14, ...named.map((words) => 20 + Math.min(6.2 * words.length, 0.3 * wide)));
  const top = 14, bottom = 46;
  const x = (value) => left + (value - plot.x.low) / (plot.x.high - plot.x.low) * (wide - left - right);
  const y = (value) => high - bottom - (value - plot.y.low) / (plot.y.high - plot.y.low) * (high - top - bottom);
  const svg = shape("svg", { width: wide, height: high, viewBox: `0 0 ${wide} ${high}` });
  const grid = (attributes) => svg.append(shape("line", { class: "grid", ...attributes }));
  const text = (attributes, words) => svg.append(shape("text", attributes, words));
  svg.append(shape("defs", {}, shape("pattern", { id: `hatch-${name}`, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    shape("line", { class: "hatch", y2: 7 }))));
  for (const [low, end] of plot.y.apart) {
    svg.append(shape("rect", { fill: `url(#hatch-${name})`, x: left, width: wide - left - right, y: y(end), height: y(low) - y(end) }));
  }
  let last = -Infinity;
  for (const [value, words] of plot.x.ticks) {
    grid({ x1: x(value), x2: x(value), y1: top, y2: high - bottom });
    if (x(value) - last < 26) continue;
    last = x(value);
    text({ class: "tick", x: x(value), y: high - bottom + 18, "text-anchor": "middle" }, words);
  }
  for (const [value, words] of plot.y.ticks) {
    grid({ x1: left, x2: wide - right, y1: y(value), y2: y(value) });
    text({ class: "tick", x: left - 8, y: y(value) + 4, "text-anchor": "end" }, words);
  }
  text({ class: "axis", x: (left + wide - right) / 2, y: high - 8, "text-anchor": "middle" }, narrow ? plot.across : `${plot.across} (${plot.better})`);
  text({ class: "axis", "text-anchor": "middle", transform: `translate(13 ${(top + high - bottom) / 2}) rotate(-90)` },
    narrow ? plot.upright : `${plot.upright} (lower is better)`);
  let free = top; // below the names so far: references come from above
  plot.references.forEach((each, k) => {
    const at = each.beyond ? top : y(each.y), end = wide - right, base = Math.max(at, free);
    free = base + 14;
    if (each.band) svg.append(shape("rect", { class: "band", x: left, width: end - left, y: y(each.band[1]), height: Math.max(y(each.band[0]) - y(each.band[1]), 1) }));
    if (!each.beyond) svg.append(shape("polyline", { class: "reference", points: `${left},${at} ${end},${at} ${end + 6},${base}` }));
    text({ class: "named", x: end + 9, y: base + 4 }, `${each.beyond ? "↑ " : ""}${named[k]}`);
    svg.lastChild.append(shape("title", {}, each.label));
  });
  const tip = element("div", { className: "tip", hidden: true });
  const points = [];
  for (const curve of plot.curves) {
    if (!passes(curve.facets)) continue;
    const line = curve.points.map((point) => `${x(point.x)},${y(point.y)}`).join(" ");
    svg.append(shape("polyline", { class: curve.dashed ? "curve dashed" : "curve", points: line, style: `stroke: ${curve.colour}` }));
    for (const point of curve.points) {
      const group = shape("g", { class: "point", tabindex: 0, role: "button", "aria-label": point.lines.join(", "),
        style: `--colour: ${curve.colour}`, transform: `translate(${x(point.x)} ${y(point.y)})` });
      const bar = ([x1, x2], [y1, y2]) => group.append(shape("line", { class: "bar", x1, x2, y1, y2 }));
      if (point.across) bar(point.across.map((end) => x(end) - x(point.x)), [0, 0]);
      if (point.upright) bar([0, 0], point.upright.map((end) => y(end) - y(point.y)));
      const path = MARKERS[curve.shape](point.default ? 7 : 4.5);
      group.append(shape("path", { d: path, class: point.default ? "marker default" : "marker" }));
      if (point.control) group.append(shape("path", { d: "M-7,-7L7,7M-7,7L7,-7", class: "control" }));
      group.append(shape("circle", { r: 12, class: "target" }));
      const show = () => {
        tip.replaceChildren(...point.lines.map((words, k) => element(k ? "div" : "b", { textContent: words })));
        tip.hidden = false;
        const [at, above] = [x(point.x), y(point.y)];
        tip.style.left = `${Math.max(0, Math.min(at + 14, wide - tip.offsetWidth - 4))}px`;
        tip.style.top = `${above > tip.offsetHeight + 16 ? above - tip.offsetHeight - 12 : above + 14}px`;
      };
      const open = () => {
        if (point.files.length) showRow(point.lines.slice(0, 4).join(" · "), protocolOf(place), point.files);
      };
      group.addEventListener("pointerenter", show);
      group.addEventListener("focus", show);
      for (const kind of ["pointerleave", "blur"]) group.addEventListener(kind, () => { tip.hidden = true; });
      group.addEventListener("click", open);
      group.addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault(); // or the same key presses the dialog's first button
        open();
      });
      points.push([point.default, group]);
    }
  }
  svg.append(...points.sort(([a], [b]) => a - b).map(([, group]) => group)); // default strengths on top
  const legend = element("ul", { className: "legend" }, ...plot.curves.filter((curve) => passes(curve.facets)).map((curve) => {
    const mark = shape("svg", { width: 26, height: 14, viewBox: "-13 -7 26 14", style: `--colour: ${curve.colour}` },
      shape("line", { class: curve.dashed ? "curve dashed" : "curve", x1: -13, x2: 13, y1: 0, y2: 0, style: `stroke: ${curve.colour}` }),
      shape("path", { d: MARKERS[curve.shape](4.5), class: "marker" }));
    const name = curve.paper ? element("a", { href: curve.paper, rel: "external noopener", textContent: curve.name }) : curve.name;
    return element("li", {}, mark, ...curve.dashed ? [element("span", {}, name, " (early stopping)")] : [name]);
  }));
  place.replaceChildren(svg, tip, legend);
}
for (const select of all("select[data-plot]")) {
  select.addEventListener("change", () => { picked[select.dataset.plot] = Number(select.value); draw(select.dataset.plot); });
}
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  Object.keys(data.plots).forEach(draw);
});

// Why numbers of a row are missing: a column's title and what its cell says or hints at.
function reasonsOf(row) {
  const heads = row.closest("table").tHead.rows[0].cells;
  return [...row.cells].flatMap((cell) => {
    const said = cell.firstElementChild;
    if (!said?.matches(".missing") || cell.firstChild !== said) return [];
    const reason = said.matches(".why") ? said.textContent : said.textContent === "–" ? said.dataset.hint : "";
    return reason ? [`${heads[cell.cellIndex].textContent.trim().replace(/\s+%?$/, "")}: ${reason}`] : [];
  });
}
for (const button of all(".source")) {
  button.ariaLabel = `Command and records of ${one("th", button.closest("tr")).textContent.trim()}`;
}

// The dialog of a row: its command and its records.
function showRow(title, protocol, files, command, reasons = []) {
  const dialog = one("#row");
  const groups = new Map(), records = files.map((file) => recordOf(protocol, file));
  command ??= records[0]?.command; // the first seed's stands with its record
  for (const record of records) groups.set(record.label, [...groups.get(record.label) ?? [], record]);
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
  const dialog = one("#picture"), title = one("span", button).textContent;
  const record = recordOf(protocolOf(button), fileOf(one("img", button)));
  current = button;
  one("h2", dialog).textContent = title;
  one("a", dialog).href = record.href;
  Object.assign(one("img", dialog), { src: record.picture, alt: title });
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function step(by) {
  const buttons = all(".picture").filter((button) => button.offsetParent);
  showPicture(buttons[(buttons.indexOf(current) + by + buttons.length) % buttons.length]);
}

{% include "copy.js" %}


document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target instanceof HTMLDialogElement) event.target.close(); // the backdrop
  else if (button?.matches(".source")) {
    const row = button.closest("tr");
    const names = all(".text", row).filter((cell) => !cell.contains(button) && !one("abbr", cell)).slice(0, 4);
    showRow(names.map((cell) => cell.textContent.trim()).filter(Boolean).join(" · "), protocolOf(row), filesOf(button), button.dataset.command, reasonsOf(row));
  } else if (button?.matches(".picture")) showPicture(button);
  else if (button?.dataset.step) step(Number(button.dataset.step));
  else if (button?.dataset.copy) copy(button);
  for (const facet of all(".facet[open]")) facet.open = facet.contains(event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    tell(null);
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
