// Videos: who moves, whose movement, and the jobs that make them, or that find the keypoints of a clip. Jobs are the
// server's; this page shows where they are.

import { heard, put, sendFile } from "/assets/live.js";

const SOON = 700; // milliseconds between two looks at a job that goes on
const SELDOM = 5000;
const APART = 0.12; // seconds by which clips that play together may differ
const FOUND = { "keypoints.csv": "csv", "keypoints.npz": "npz", "result.mp4": "Save" };
const LOST = "The server is not there; is it still running?";
const $ = (id) => document.getElementById(id);

// `tell(text)` tells a person what went wrong, or that nothing is wrong any more.
export function showVideo({ tell }) {
  const figure = (role) => document.querySelector(`#video [data-role=${role}]`);
  const chosen = { source: null, driver: null };
  const finding = () => document.querySelector("[name=aim]:checked").value === "reconstruction";
  const rows = new Map(); // what is listed, by the ids of jobs
  let models = [];
  let jobs = [];
  let shown = null; // the job whose clips are shown; null while a new one is put together
  let looked = false;
  let timer = 0;
  let asked = 0;

  async function refresh() {
    clearTimeout(timer);
    try {
      jobs = await heard(fetch("/api/jobs"), "");
      const job = jobs.find(({ id }) => id === shown);
      if (!looked && jobs.length && !chosen.source && !chosen.driver) show(jobs[0]);
      else if (!job) shown = null;
      looked = true;
      render();
    } catch (error) {
      if (error.message) tell(error.message); // else nobody answered, which is told already
    }
    const active = jobs.some(({ state }) => state === "waiting" || state === "going on");
    timer = setTimeout(refresh, active ? SOON : SELDOM);
  }

  function show(job) {
    shown = job.id;
    Object.assign(chosen, { source: job.source, driver: job.driver ?? chosen.driver });
    aim(job.driver ? "portrait" : "reconstruction");
    const [radio] = document.querySelectorAll(`#first [value="${job.order.adapt} ${job.order.learn}"]`);
    if (radio) radio.checked = true;
    $("whole").checked = job.order.whole;
    if ([...$("video-model").options].some(({ value }) => value === job.order.model)) $("video-model").value = job.order.model;
    estimate();
  }

  function render() {
    for (const role of ["source", "driver"]) place(figure(role), chosen[role]);
    const job = jobs.find(({ id }) => id === shown);
    renderResult(job);
    $("make").disabled = !ready();
    const focused = document.activeElement?.dataset?.key;
    put($("jobs"), jobs.map(row));
    if (focused && !$("jobs").contains(document.activeElement)) $("jobs").querySelector(`[data-key="${focused}"]`)?.focus();
  }

  function ready() {
    return Boolean($("video-model").value && chosen.source && (chosen.driver || finding()));
  }

  // What is made by the next order: a moved picture, or the keypoints of a clip.
  function aim(kind) {
    document.querySelector(`[name=aim][value=${kind}]`).checked = true;
    for (const part of [figure("driver"), $("first"), $("whole").parentElement]) part.hidden = finding();
    $("make").textContent = finding() ? "Find the keypoints" : "Make the video";
    const before = $("video-model").value;
    const names = models.filter((model) => model.kind === kind).map(({ name }) => name);
    $("video-model").replaceChildren(...names.map((name) => new Option(name.replace(/^run /, ""), name)));
    if (names.includes(before)) $("video-model").value = before;
  }

  // A job in the list; made anew only when there is something else to do about it.
  function row(job) {
    const known = rows.get(job.id);
    if (known?.state === job.state) {
      known.item.setAttribute("aria-current", job.id === shown);
      known.told.textContent = inWords(job);
      return known.item;
    }
    const item = document.createElement("li");
    item.setAttribute("aria-current", job.id === shown);
    const name = job.driver ? `${job.source.name} as ${job.driver.name}` : `Keypoints of ${job.source.name}`;
    const open = button(name, `${job.id} open`, () => {
      show(job);
      render();
    });
    open.className = "name";
    const told = document.createElement("small");
    told.textContent = inWords(job);
    open.append(told);
    item.append(open);
    if (job.state === "waiting" || job.state === "going on") item.append(act(job, "stop", "Stop"));
    if (job.state === "stopped" || job.state === "failed") item.append(act(job, "resume", job.driver ? "Go on" : "Begin anew"));
    if (job.state !== "going on") item.append(act(job, "", "Remove", "DELETE"));
    rows.set(job.id, { state: job.state, item, told });
    return item;
  }

  function act(job, what, label, method = "POST") {
    return button(label, `${job.id} ${label}`, async () => {
      await ask(`/api/jobs/${job.id}${what && `/${what}`}`, { method });
      refresh();
    });
  }

  function renderResult(job) {
    const screen = $("made");
    const playing = job?.state === "done";
    const made = job?.driver ? "Result, generated" : "Keypoints and graph";
    $("made-caption").textContent = playing ? [made, ...job.notes].join(". ") : "Result";
    $("files").hidden = !playing;
    if (playing) {
      if (screen.dataset.job === job.id) return;
      const video = Object.assign(document.createElement("video"), { controls: true, loop: true, playsInline: true });
      video.src = `/api/jobs/${job.id}/result.mp4`;
      $("files").replaceChildren(...Object.entries(job.driver ? { "result.mp4": "Save" } : FOUND).map(([name, label]) => {
        const link = Object.assign(document.createElement("a"), { className: "button", textContent: label });
        link.href = `/api/jobs/${job.id}/${name}?download`;
        return link;
      }));
      for (const name of ["play", "pause", "seeked", "timeupdate"]) video.addEventListener(name, () => together(video));
      const fresh = screen.dataset.waited === job.id;
      screen.replaceChildren(video);
      screen.dataset.job = job.id;
      if (fresh) video.play().catch(() => {}); // a browser may want to be asked by the person
      return;
    }
    delete screen.dataset.job;
    const state = document.createElement("p");
    state.setAttribute("role", "status");
    if (!job) state.textContent = ready() ? "Ready to be made." : !models.length ? "Starting…" : finding() ? "Choose a clip." : "Choose a source and a driver.";
    else state.textContent = job.state === "failed" ? sentence(job.message) : inWords(job);
    if (job?.state === "failed") state.className = "wrong";
    const parts = [state];
    if (job?.state === "going on") {
      screen.dataset.waited = job.id;
      const bar = Object.assign(document.createElement("progress"), { max: 1, value: job.share });
      bar.setAttribute("aria-label", "How far the video is");
      const stage = document.createElement("small");
      stage.textContent = [job.stage, ...job.notes].join(". ");
      parts.push(bar, stage);
    }
    screen.replaceChildren(...parts);
  }

  // Source and driver as the result has them at this moment.
  function together(video) {
    for (const role of ["source", "driver"]) {
      const other = figure(role).querySelector("video");
      if (!other || !other.duration || figure(role).hidden) continue;
      const wanted = role === "driver" ? Math.min(video.currentTime, other.duration) : video.currentTime % other.duration;
      if (Math.abs(other.currentTime - wanted) > APART) other.currentTime = wanted;
      if (video.paused !== other.paused) (video.paused ? other.pause() : other.play().catch(() => {}));
    }
  }

  async function take(file, role) {
    if (!file) return;
    const caption = figure(role).querySelector("figcaption span");
    caption.textContent = `Reading ${file.name}…`;
    try {
      chosen[role] = await sendFile(file);
      shown = null;
      tell();
    } catch (error) {
      caption.textContent = title(role, chosen[role]);
      tell(error.message);
    }
    render();
    estimate();
  }

  function order(first) {
    const [adapt, learn] = first.split(" ").map(Number);
    const { source, driver } = chosen;
    if (finding()) return { source: source.id, driver: null, model: $("video-model").value };
    return { source: source.id, driver: driver.id, model: $("video-model").value, adapt, learn, whole: $("whole").checked };
  }

  // How long each choice takes, and which there are.
  async function estimate() {
    const turn = ++asked;
    const { source, driver } = chosen;
    $("takes").textContent = "";
    if (finding()) {
      const seconds = source && (await secondsOf(order("0 0")));
      if (turn === asked && seconds) $("takes").textContent = `about ${duration(seconds)}`;
      return;
    }
    for (const radio of document.querySelectorAll("#first input")) {
      const [adapt, learn] = radio.value.split(" ").map(Number);
      const short = (adapt && source && source.frames < 20) || (learn && [source, driver].some((file) => file && file.kind !== "clip"));
      radio.disabled = Boolean(short || (learn && source && source.id === driver?.id));
      if (radio.disabled && radio.checked) document.querySelector("#first input").checked = true;
      const told = radio.closest("label").querySelector("output");
      told.textContent = radio.disabled ? (adapt ? "needs a clip as the source" : "needs two clips") : "";
      if (radio.disabled || !source || !driver) continue;
      const seconds = await secondsOf(order(radio.value));
      if (turn !== asked || seconds === null) return;
      told.textContent = `about ${duration(seconds)}`;
    }
  }

  async function ask(path, options) {
    try {
      const told = await heard(fetch(path, options), LOST);
      tell();
      return told;
    } catch (error) {
      tell(error.message);
      return null;
    }
  }

  $("order").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("make").disabled = true;
    const made = await ask("/api/jobs", request(order(document.querySelector("#first :checked").value)));
    if (made) shown = made.id;
    refresh();
  });
  $("video-model").addEventListener("change", estimate);
  for (const role of ["source", "driver"]) {
    const input = figure(role).querySelector("input");
    input.addEventListener("change", () => {
      take(input.files[0], role);
      input.value = "";
    });
  }

  $("aims").addEventListener("change", (event) => {
    shown = null;
    aim(event.target.value);
    render();
    estimate();
  });

  return {
    take(file, where) {
      const second = where?.closest?.("[data-role=driver]") || (chosen.source && !chosen.driver);
      take(file, second && !finding() ? "driver" : "source");
    },
    know(all) {
      models = all;
      aim(document.querySelector("[name=aim]:checked").value);
      if ($("video").hidden) return;
      render(); // this view was there before the models were known
      estimate();
    },
    shown(on) {
      clearTimeout(timer);
      if (on) refresh();
      else for (const video of document.querySelectorAll("#video video")) video.pause();
    },
  };
}

// How long the server thinks that an order takes; null if it says nothing, and making it will say why not.
async function secondsOf(order) {
  try {
    return (await heard(fetch("/api/jobs?seconds", request(order)), "")).seconds;
  } catch {
    return null;
  }
}

// A file on the screen of a figure; one that the browser cannot play as a still picture of it.
function place(figure, file) {
  const screen = figure.querySelector(".screen");
  figure.querySelector("figcaption span").textContent = title(figure.dataset.role, file);
  if (!file || screen.dataset.file === file.id) return;
  screen.dataset.file = file.id;
  const still = () => {
    const image = Object.assign(document.createElement("img"), { src: `/api/files/${file.id}/still.jpg`, alt: file.name });
    screen.replaceChildren(image);
  };
  if (!file.type) return still();
  const video = file.type.startsWith("video/");
  const media = document.createElement(video ? "video" : "img");
  if (video) Object.assign(media, { muted: true, playsInline: true, preload: "auto" });
  else media.alt = file.name;
  media.addEventListener("error", still);
  media.src = `/api/files/${file.id}`;
  screen.replaceChildren(media);
}

function title(role, file) {
  const name = role === "source" ? "Source" : "Driver";
  return file ? `${name}: ${file.name}${file.seconds ? `, ${file.seconds.toFixed(1)} s` : ""}` : name;
}

function inWords(job) {
  if (job.state === "waiting") return job.ahead.length ? `Waiting, ${job.ahead.length} before it` : "Waiting";
  if (job.state === "going on") return `${Math.round(job.share * 100)} %, about ${duration(job.left)} left`;
  if (job.state === "stopped") return job.driver ? "Stopped; it can go on where it was" : "Stopped";
  return { done: "Done", failed: "This did not work" }[job.state];
}

function button(text, key, pressed) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.dataset.key = key;
  made.addEventListener("click", pressed);
  return made;
}

function request(body) {
  return { method: "POST", body: JSON.stringify(body) };
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function sentence(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
