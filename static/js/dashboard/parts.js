// Lists and tables of the dashboard. Text only ever becomes text: nothing here is parsed as HTML.

function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const nothing = (text) => element("p", { class: "nothing" }, text);
const gib = (bytes) => `${(bytes / 1024 ** 3).toFixed(1)} GiB`;

function ago(at) {
  const seconds = Math.max(Date.now() / 1000 - at, 0);
  const [size, unit] = [[86400, "day"], [3600, "hour"], [60, "minute"]].find(([size]) => seconds >= size) ?? [1, "second"];
  return new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" }).format(-Math.floor(seconds / size), unit);
}

export function table(heads, rows) {
  const head = element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))));
  const body = element("tbody", {}, ...rows.map(([first, ...rest]) => element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((cell) => element("td", {}, String(cell))))));
  return element("table", {}, head, body);
}

function rows(heads, lines) {
  const head = element("tr", {}, ...heads.map(([text, kind = ""]) => element("th", { scope: "col", class: kind }, text)));
  const body = lines.map((cells) => element("tr", {}, ...cells.map((cell, index) => element("td", { class: heads[index][1] ?? "" }, cell))));
  return element("div", { class: "scroll" }, element("table", { class: "rows" }, element("thead", {}, head), element("tbody", {}, ...body)));
}

export function alertItem(alert) {
  return element("li", { class: alert.severity }, element("span", { class: "severity" }, alert.severity), element("span", {}, alert.message), element("span", { class: "when" }, `${ago(alert.opened_at)}${alert.count > 1 ? `, ${alert.count} times` : ""}`));
}

export function slowestTable(queries, stages) {
  if (!queries.length) return nothing("No query in this range.");
  const key = element("p", { class: "key" }, ...stages.map((name) => element("span", {}, element("i", { class: `of-${name}`, "aria-hidden": "true" }), name)));
  const lines = queries.map((query) => {
    const whole = Math.max(query.pipeline_ms, ...[stages.reduce((sum, name) => sum + (query[`${name}_ms`] ?? 0), 0)]);
    const told = stages.filter((name) => query[`${name}_ms`]).map((name) => `${name} ${query[`${name}_ms`].toFixed(1)} ms`).join(", ");
    const bar = element("div", { class: "split-bar", role: "img", "aria-label": told || "no stage ran", title: told }, ...stages.map((name) => {
      const part = element("i", { class: `of-${name}` });
      part.style.width = `${(100 * (query[`${name}_ms`] ?? 0)) / whole}%`;
      return part;
    }));
    const request = element("code", {}, query.request_id.slice(0, 13));
    request.title = query.request_id;
    return [
      ago(query.occurred_at),
      query.trace_url ? element("a", { href: query.trace_url, rel: "noopener" }, request) : request,
      `${query.pipeline_ms.toFixed(1)} ms`,
      bar,
      query.collection,
      query.variant,
    ];
  });
  return element("div", { class: "meters" }, key, rows([["When"], ["Request", "optional"], ["Took", "number"], ["Spent in", "split"], ["Collection", "optional"], ["Variant", "optional"]], lines));
}

const GOOD = new Set(["ready", "loaded", "ok", "live", "active"]);
const BAD = new Set(["failed", "error", "broken"]);

function stateOf(text) {
  const kind = GOOD.has(text) ? "good" : BAD.has(text) ? "bad" : "warn";
  return element("span", { class: `state-dot ${kind}` }, text);
}

export function modelTable(models) {
  if (!models.length) return nothing("The registry has told of no model yet. manage.py seed puts the packaged ones live.");
  return rows([["Slot"], ["Model"], ["Where", "optional"], ["State"]], models.map((model) => [model.slot ?? "–", `${model.name ?? "?"} ${model.version ?? ""}`.trim(), model.scope ?? "everywhere", stateOf(String(model.state ?? "unknown"))]));
}

export function rolloutTable(models) {
  const rollouts = models.filter((model) => (model.role ?? "stable") !== "stable");
  if (!rollouts.length) return nothing("No canary or shadow is running: everybody gets the stable versions.");
  return rows([["Slot"], ["Version"], ["Role"], ["Share", "number"]], rollouts.map((model) => [model.slot, `${model.name} ${model.version}`, model.role, model.share === undefined || model.share === null ? "–" : `${(100 * model.share).toFixed(0)} %`]));
}

function meter(label, percent, told) {
  const level = percent >= 95 ? "full" : percent >= 80 ? "high" : "";
  const fill = element("i", { class: level });
  fill.style.width = `${Math.min(Math.max(percent, 0), 100)}%`;
  const bar = element("div", { class: "bar", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": percent.toFixed(0), "aria-valuetext": told }, fill);
  return element("div", { class: "meter-row" }, element("span", {}, label), bar, element("span", { class: "value" }, told));
}

export function systemFigures(system) {
  const { cpu, memory, swap, disk, load } = system;
  const meters = [
    meter("CPU", cpu.percent, `${cpu.percent.toFixed(0)} % of ${cpu.count}, load ${load["1m"]}`),
    meter("Memory", memory.percent, `${gib(memory.total_bytes - memory.available_bytes)} of ${gib(memory.total_bytes)}`),
    meter("Disk", disk.percent, `${gib(disk.free_bytes)} free`),
  ];
  if (swap.total_bytes) meters.splice(2, 0, meter("Swap", swap.percent, gib(swap.used_bytes)));
  for (const gpu of system.gpus) meters.push(meter(`GPU ${gpu.index}`, gpu.percent ?? 0, `${gib(gpu.memory_used_bytes)} of ${gib(gpu.memory_total_bytes)}`));
  const processes = rows([["Process"], ["CPU", "number"], ["Memory", "number"], ["Threads", "number optional"], ["Started", "optional"]], system.processes.map((one) => [`${one.role} ${one.pid}`, `${one.cpu_percent.toFixed(0)} %`, gib(one.memory_bytes), String(one.threads), ago(one.started_at)]));
  return element("div", { class: "meters" }, ...meters, processes);
}
