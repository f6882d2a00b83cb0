// The dashboard: what is, from the feed each second; what was, from the performance store when the range changes.
import { area, Chart, columns, line, sparkline, stacked, stageSeries } from "./charts.js";
import { Feed } from "./feed.js";
import { alertItem, modelTable, rolloutTable, slowestTable, systemFigures, table } from "./parts.js";

const root = document.querySelector(".dashboard");
const by = (id) => document.getElementById(id);
const STAGES = ["embed", "retrieval", "feature", "ltr", "fusion"];
const AFTER_SEARCH = { generation: "--stage-4", stt: "--stage-2", tts: "--stage-3" };
const REFRESH_MS = 15000;
const KEPT = 90;

const charts = Object.fromEntries(["stages", "answers", "traffic", "cache", "errors"].map((name) => [name, new Chart(`chart-${name}`)]));
const chosen = (name) => root.querySelector(`input[name="${name}"]:checked`).value;
const sum = (numbers) => numbers.reduce((total, number) => total + (number ?? 0), 0);
const percent = (part, whole) => (whole ? (100 * part) / whole : null);
const count = new Intl.NumberFormat();
const short = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(value >= 100 ? 0 : digits));

// --- now ----

const seen = [];
const rates = [];
const latencies = [];

const rate = (from, to) => Math.max(to.queries - from.queries, 0) / Math.max(to.uptime_s - from.uptime_s, 0.5);

function showNow(figures) {
  const { counters, stages } = figures;
  const previous = seen.at(-1);
  // The server's clock: messages may arrive late and several at once. Counters begin anew when the server does.
  if (previous && counters.uptime_s < previous.uptime_s) seen.length = 0;
  seen.push(counters);
  if (seen.length > KEPT) seen.shift();
  if (seen.length > 1) {
    rates.push(rate(seen.at(-2), counters));
    if (rates.length > KEPT) rates.shift();
  }
  latencies.push(stages.pipeline?.p95_ms ?? null);
  if (latencies.length > KEPT) latencies.shift();

  by("now-rate").textContent = seen.length > 1 ? short(rate(seen.at(-Math.min(seen.length, 11)), counters)) : "–";
  by("now-p95").textContent = short(stages.pipeline?.p95_ms);
  sparkline(by("spark-rate"), rates.length ? rates : [0]);
  sparkline(by("spark-p95"), latencies);
  const { full, feature, none } = counters.cache_hits;
  by("now-cache").textContent = short(percent(full + feature, full + feature + none), 0);
  by("now-cache-note").textContent = `${count.format(full)} whole, ${count.format(feature)} up to the fusion`;
  by("now-errors").textContent = short(percent(counters.query_errors, counters.queries), 2);
  by("now-errors-note").textContent = `${count.format(counters.query_errors)} of ${count.format(counters.queries)} queries`;
}

// --- what was ----

let last = null;

async function refresh() {
  const wanted = chosen("range");
  try {
    const answer = await fetch(`${root.dataset.dataUrl}?range=${wanted}`, { headers: { Accept: "application/json" } });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail ?? "The server could not answer.");
    if (wanted !== chosen("range")) return;
    last = body;
    by("problem").hidden = true;
    show(body);
  } catch (error) {
    by("problem").textContent = `The figures could not be fetched: ${error.message} They are asked for again every ${REFRESH_MS / 1000} seconds.`;
    by("problem").hidden = false;
  }
}

function show(body) {
  const { history } = body;
  const any = sum(history.queries) > 0;
  by("no-queries").hidden = any;
  for (const figure of by("charts").querySelectorAll("figure")) figure.hidden = !any;
  if (any) {
    showStages(history);
    showAnswers(history);
    showTraffic(history);
    showCache(history);
    showErrors(history);
  }
  by("alerts").hidden = body.alerts.length === 0;
  by("alert-list").replaceChildren(...body.alerts.map(alertItem));
  by("slowest").replaceChildren(slowestTable(body.slowest, STAGES));
  showFull(body);
}

function showFull({ models, system }) {
  by("models").replaceChildren(modelTable(models));
  by("rollouts").replaceChildren(rolloutTable(models));
  by("system").replaceChildren(systemFigures(system));
}

const time = (at) => new Date(at * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });

function showStages(history) {
  const percentile = chosen("percentile");
  const names = STAGES.filter((name) => history.stages[name]);
  const whole = history.stages.pipeline?.[percentile] ?? history.at.map(() => null);
  const own = names.map((name) => history.stages[name][percentile]);
  const sums = names.length ? stacked(own).map((column) => column.map((value, index) => (own.every((stage) => stage[index] === null) ? null : value))) : [];
  const latest = whole.findLast((value) => value !== null) ?? null;
  charts.stages.draw({
    data: [history.at, ...sums.toReversed(), whole],
    series: [...stageSeries(names, own).toReversed(), line("whole query", "--ink", (value) => `${value.toFixed(1)} ms`)],
    summary: `${percentile === "p95_ms" ? "p95" : "p50"} of ${names.join(", ")}, stacked. The whole query took ${short(latest)} milliseconds lately.`,
  });
  by("table-stages").replaceChildren(table(["Time", ...names, "whole query"], history.at.map((at, index) => [time(at), ...own.map((column) => short(column[index])), short(whole[index])])));
}

function showAnswers(history) {
  const percentile = chosen("percentile");
  const names = Object.keys(AFTER_SEARCH).filter((name) => history.stages[name]);
  by("chart-answers").closest("figure").hidden = !names.length;
  if (!names.length) return;
  const own = names.map((name) => history.stages[name][percentile]);
  charts.answers.draw({
    data: [history.at, ...own],
    series: names.map((name) => line(name, AFTER_SEARCH[name], (value) => `${short(value, 0)} ms`)),
    summary: `${percentile === "p95_ms" ? "p95" : "p50"} of ${names.join(", ")}.`,
  });
  by("table-answers").replaceChildren(table(["Time", ...names], history.at.map((at, index) => [time(at), ...own.map((column) => short(column[index], 0))])));
}

function showTraffic(history) {
  const minutes = history.step_s / 60;
  const perMinute = history.queries.map((n) => n / minutes);
  charts.traffic.draw({
    data: [history.at, perMinute],
    series: [columns("per minute", "--accent", (value) => short(value))],
    summary: `${count.format(sum(history.queries))} queries in this range, at most ${short(Math.max(...perMinute))} per minute.`,
  });
  by("table-traffic").replaceChildren(table(["Time", "Queries", "Errors"], history.at.map((at, index) => [time(at), history.queries[index], history.errors[index]])));
}

function showCache(history) {
  by("cache-note").textContent = history.cache ? "" : "Cache hits are kept apart for a day.";
  by("chart-cache").hidden = !history.cache;
  if (!history.cache) return;
  const { full, feature, none } = history.cache;
  const all = history.at.map((_, index) => full[index] + feature[index] + none[index]);
  const ofFull = all.map((n, index) => percent(full[index], n));
  const either = all.map((n, index) => percent(full[index] + feature[index], n));
  charts.cache.draw({
    data: [history.at, either, ofFull],
    series: [area("with the feature cache", "--stage-3", (value) => `${short(value, 0)} %`), area("whole answers", "--stage-2", (value) => `${short(value, 0)} %`)],
    unit: " %",
    range: () => [0, 100],
    summary: `${short(percent(sum(full) + sum(feature), sum(all)), 0)} percent of the queries were answered from a cache.`,
  });
  by("table-cache").replaceChildren(table(["Time", "Whole answers", "Features", "Computed"], history.at.map((at, index) => [time(at), full[index], feature[index], none[index]])));
}

function showErrors(history) {
  const rate = history.queries.map((n, index) => percent(history.errors[index], n));
  charts.errors.draw({
    data: [history.at, rate],
    series: [area("failed", "--bad", (value) => `${short(value, 2)} %`)],
    unit: " %",
    summary: `${count.format(sum(history.errors))} of ${count.format(sum(history.queries))} queries failed.`,
  });
  by("table-errors").replaceChildren(table(["Time", "Errors", "Queries"], history.at.map((at, index) => [time(at), history.errors[index], history.queries[index]])));
}

// --- begin ----

by("ranges").addEventListener("change", refresh);
root.addEventListener("change", (event) => event.target.name === "percentile" && last && (showStages(last.history), showAnswers(last.history)));
new MutationObserver(() => last && show(last)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
const feed = { "metrics": showNow, "metrics.full": showFull };
new Feed(root.dataset.socket, root.dataset.basicUrl, feed, (state, text) => {
  by("feed").dataset.state = state;
  if (by("feed-text").textContent !== text) by("feed-text").textContent = text;
});
refresh();
setInterval(() => document.visibilityState === "visible" && refresh(), REFRESH_MS);
