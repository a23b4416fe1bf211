// Trainings: what they logged, and the pictures that they left. Asked for anew every few seconds while it is looked at.

import { heard, put } from "/assets/live.js";

const EVERY = 3000;
const $ = (id) => document.getElementById(id);
const WIDE = 300;
const HIGH = 92;

// `wrong(text)` tells a person what went wrong; `use(model)` opens a model on the other view.
export function showRuns({ wrong, use }) {
  const rows = new Map(); // what is listed, by ids
  let chosen = null;
  let samples = {};
  let following = true; // the newest picture
  let timer = 0;
  let drawn = ""; // what is shown, so that nothing is drawn anew under the pointer

  async function refresh() {
    clearTimeout(timer);
    try {
      const runs = (await heard(fetch("/api/runs"), "")) ?? [];
      $("no-runs").hidden = runs.length > 0;
      if (!runs.some((run) => run.id === chosen)) chosen = runs[0]?.id ?? null;
      list(runs);
      $("run").hidden = chosen === null;
      if (chosen !== null) show(await heard(fetch(`/api/run?id=${encodeURIComponent(chosen)}`), ""));
    } catch (error) {
      if (error.message) wrong(error.message); // else nobody answered, which is told already
    }
    timer = setTimeout(refresh, EVERY);
  }

  function list(runs) {
    put($("run-list"), runs.map(row));
  }

  function row(run) {
    if (!rows.has(run.id)) {
      const item = document.createElement("li");
      const button = item.appendChild(document.createElement("button"));
      button.append(run.id, document.createElement("small"));
      button.addEventListener("click", () => {
        chosen = run.id;
        following = true;
        refresh();
      });
      rows.set(run.id, item);
    }
    const item = rows.get(run.id);
    item.firstChild.setAttribute("aria-current", run.id === chosen);
    item.querySelector("small").textContent = progress(run);
    return item;
  }

  function show(run) {
    if (run.id !== chosen) return;
    $("run-name").textContent = run.id;
    $("run-state").textContent = [run.data, progress(run)].filter(Boolean).join(" · ");
    $("use").hidden = !run.model;
    $("use").onclick = () => use(`run ${run.id}`);
    const curves = JSON.stringify([run.id, run.curves]);
    if (curves !== drawn) $("curves").replaceChildren(...Object.entries(run.curves).map(([name, points]) => curve(name, points)));
    drawn = curves;
    samples = run.samples;
    const names = Object.keys(samples);
    $("samples").hidden = !names.length;
    if (!names.length) return;
    const kept = names.includes($("sample-name").value) ? $("sample-name").value : names[0];
    $("sample-name").replaceChildren(...names.map((name) => new Option(name, name)));
    $("sample-name").value = kept;
    $("sample-name").hidden = names.length < 2;
    scrub();
  }

  function scrub() {
    const name = $("sample-name").value;
    const steps = samples[name];
    const range = $("sample-step");
    range.max = steps.length - 1;
    if (following) range.value = range.max;
    const step = steps[Number(range.value)];
    $("sample-label").textContent = `step ${step.toLocaleString("en")}`;
    range.setAttribute("aria-valuetext", `step ${step}`);
    const source = `/api/run?id=${encodeURIComponent(chosen)}&sample=${encodeURIComponent(name)}&step=${step}`;
    if ($("sample").getAttribute("src") !== source) $("sample").src = source;
    $("sample").alt = `${name} at step ${step} of ${chosen}`;
  }

  $("sample-step").addEventListener("input", () => {
    following = $("sample-step").value === $("sample-step").max;
    scrub();
  });
  $("sample-name").addEventListener("change", () => {
    following = true;
    scrub();
  });

  return {
    shown(on) {
      clearTimeout(timer);
      if (on) refresh();
    },
  };
}

function progress(run) {
  const of = run.of ? ` of ${run.of.toLocaleString("en")}` : "";
  return `${run.state}, step ${run.step.toLocaleString("en")}${of}`;
}

// A small drawing of a series of [step, value], with what is under the pointer above it.
function curve(name, points) {
  const figure = document.createElement("figure");
  figure.className = "curve";
  figure.dataset.name = name;
  const caption = figure.appendChild(document.createElement("figcaption"));
  const value = document.createElement("b");
  caption.append(name.replaceAll("_", " "), value);
  const steps = points.map(([step]) => step);
  const values = points.map(([, number]) => number);
  const [first, last] = [steps[0], steps.at(-1)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (step) => (last > first ? ((step - first) / (last - first)) * WIDE : WIDE / 2);
  const y = (number) => (high > low ? HIGH - 4 - ((number - low) / (high - low)) * (HIGH - 8) : HIGH / 2);
  const svg = figure.appendChild(shape("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img" }));
  svg.setAttribute("aria-label", `${name} from step ${first} to ${last}: ${short(values[0])} to ${short(values.at(-1))}`);
  svg.append(shape("line", { x1: 0, x2: WIDE, y1: HIGH, y2: HIGH }));
  svg.append(shape("path", { d: points.map(([step, number], at) => `${at ? "L" : "M"}${x(step).toFixed(2)} ${y(number).toFixed(2)}`).join("") }));
  const mark = svg.appendChild(shape("line", { y1: 0, y2: HIGH, visibility: "hidden" }));
  const ends = figure.appendChild(document.createElement("p"));
  const tell = (at) => {
    value.textContent = short(values[at]);
    ends.firstChild.textContent = `step ${steps[at].toLocaleString("en")}`;
  };
  ends.append(document.createElement("span"), document.createElement("span"));
  ends.lastChild.textContent = `${short(low)} to ${short(high)}`;
  tell(points.length - 1);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const wanted = first + ((event.clientX - box.left) / box.width) * (last - first);
    const away = steps.map((step) => Math.abs(step - wanted));
    const at = away.indexOf(Math.min(...away));
    for (const end of ["x1", "x2"]) mark.setAttribute(end, x(steps[at]));
    mark.setAttribute("visibility", "visible");
    tell(at);
  });
  svg.addEventListener("pointerleave", () => {
    mark.setAttribute("visibility", "hidden");
    tell(points.length - 1);
  });
  return figure;
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function short(number) {
  return Number(number.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
}
