// Charts by uPlot, in the colours of the page.

const STAGE_COLOURS = ["--stage-1", "--stage-2", "--stage-3", "--stage-4", "--stage-5"];

export function colour(name) {
  // `light-dark()` is resolved only where it is used as a colour.
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

const faded = (rgb, share) => rgb.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => `rgb(${parts.split(/[ ,/]+/).slice(0, 3).join(" ")} / ${share})`);
const bars = (wide) => window.uPlot.paths.bars({ size: [wide, 60, 2], radius: 0.15 });

// A line is drawn between two values: one that stands alone, such as a single busy minute, would not be seen.
const alone = (plot, series, everyPointIsShown) => {
  if (everyPointIsShown) return null;
  const values = plot.data[series];
  const nothing = (index) => (values[index] ?? null) === null;
  return values.flatMap((_, index) => (!nothing(index) && nothing(index - 1) && nothing(index + 1) ? [index] : []));
};
const lonePoints = (stroke) => ({ show: false, filter: alone, size: 7, fill: stroke });

export class Chart {
  constructor(id) {
    this.host = document.getElementById(id);
    this.resized = new ResizeObserver(() => this.plot && this.plot.setSize(this.size()));
    this.resized.observe(this.host);
  }

  size() {
    return { width: Math.max(this.host.clientWidth, 120), height: this.host.classList.contains("tall") ? 260 : 170 };
  }

  draw({ data, series, bands, unit = "", range, summary }) {
    const step = data[0].length > 1 ? data[0][1] - data[0][0] : 60;
    const axis = { stroke: colour("--ink-faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px Inter, sans-serif" };
    const options = {
      ...this.size(),
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      legend: { live: true },
      // Half a step at either end, so that the first and last bar are whole.
      scales: { x: { time: true, range: (_, from, to) => [from - step / 2, to + step / 2] }, y: { range: range ?? ((_, low, high) => [0, Math.max(high ?? 0, 1) * 1.08]) } },
      axes: [{ ...axis, grid: { show: false } }, { ...axis, size: 54, values: (_, values) => values.map((value) => `${Number(value.toPrecision(6))}${unit}`) }],
      series: [{ label: "Time", value: (_, at) => (at === null ? "–" : new Date(at * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" })) }, ...series],
      bands,
    };
    this.plot?.destroy();
    this.plot = new window.uPlot(options, data, this.host);
    this.host.setAttribute("aria-label", summary);
  }
}

// Sums from the bottom up. Each bar stands on the axis, so the uppermost is drawn first and the others before it.
export function stacked(columns) {
  const sums = [];
  let below = columns[0].map(() => 0);
  for (const column of columns) {
    below = column.map((value, index) => (value ?? 0) + below[index]);
    sums.push(below);
  }
  return sums;
}

export function stageSeries(names, own) {
  return names.map((name, index) => {
    const stroke = colour(STAGE_COLOURS[index % STAGE_COLOURS.length]);
    return {
      label: name,
      stroke,
      width: 0,
      fill: stroke,
      paths: bars(0.82),
      points: { show: false },
      value: (_, __, ___, at) => (at === null || own[index][at] === null ? "–" : `${own[index][at].toFixed(1)} ms`),
    };
  });
}

export const line = (label, name, format) => ({ label, stroke: colour(name), width: 2, points: lonePoints(colour(name)), spanGaps: false, value: (_, value) => (value === null ? "–" : format(value)) });
export const area = (label, name, format) => ({ ...line(label, name, format), fill: faded(colour(name), 0.18) });
export const columns = (label, name, format) => ({ ...line(label, name, format), width: 0, fill: colour(name), paths: bars(0.72), points: { show: false } });

export function sparkline(host, values) {
  const shown = values.map((value) => value ?? 0);
  const top = Math.max(...shown, 1e-9);
  const step = shown.length > 1 ? 100 / (shown.length - 1) : 0;
  const path = shown.map((value, index) => `${index ? "L" : "M"}${(index * step).toFixed(2)} ${(23 - (value / top) * 22).toFixed(2)}`).join("");
  host.innerHTML = `<svg viewBox="0 0 100 24" preserveAspectRatio="none"><path d="${path}"/></svg>`;
}
