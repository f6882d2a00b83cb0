// The pill that says how the server is, and why, when one asks it.

const POLL_MS = 10000;
const SLOW_MS = 2000;

const SAYS = {
  good: "All well",
  slow: "Slow",
  bad: "Not well",
  away: "No answer",
};

export function watchHealth(pill) {
  const label = pill.querySelector("[data-health-label]");
  const panel = pill.querySelector("[data-health-panel]");
  const { url } = pill.dataset;

  function show(state, lines) {
    pill.dataset.state = state;
    label.textContent = SAYS[state];
    panel.replaceChildren(
      ...lines.map((text) => Object.assign(document.createElement("p"), { textContent: text })),
    );
  }

  async function look() {
    if (document.visibilityState === "hidden") return;
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      const body = await answer.json();
      if (!answer.ok) {
        show("bad", [body.detail ?? "The server says that something it needs does not work.", ...failing(body)]);
      } else if (body.checks) {
        const faults = failing(body);
        show(faults.length ? "slow" : "good", faults.length ? faults : ["Everything that the server needs works."]);
      } else {
        describe(body);
      }
    } catch {
      show("away", ["The server does not answer. Your question is kept and sent when it is back."]);
    }
  }

  function failing(body) {
    const checks = Object.entries(body.checks ?? {});
    return checks.filter(([, one]) => one.state && one.state !== "ok").map(([name, one]) => `${name}: ${one.detail || one.state}`);
  }

  const time = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms)} ms`);

  function describe(figures) {
    const pipeline = figures.stages?.pipeline ?? {};
    const p95 = pipeline.p95_ms ?? null;
    const generation = figures.stages?.generation?.p95_ms ?? null;
    const lines = [
      p95 === null ? "Nobody has searched lately." : `95 of 100 searches take up to ${time(p95)}.`,
      ...(generation === null ? [] : [`95 of 100 answers are written within ${time(generation)}.`]),
    ];
    const errors = figures.counters?.query_errors ?? 0;
    if (errors) lines.push(`${errors} searches failed since the start.`);
    show(p95 !== null && p95 > SLOW_MS ? "slow" : "good", lines);
  }

  look();
  setInterval(look, POLL_MS);
  document.addEventListener("visibilitychange", look);
}
