// The page: what is open, what was undone, and what the server is asked for.

import { showCamera } from "/assets/camera.js";
import { Live, heard, sendFile } from "/assets/live.js";
import { showRuns } from "/assets/runs.js";
import { Stage } from "/assets/stage.js";
import { showVideo } from "/assets/video.js";

const REST = 150; // milliseconds without a move, after which the result is painted finely
const KINDS = {
  portrait: "Pictures that move",
  generator: "Generated",
  reconstruction: "Reconstruction",
};
const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

const stage = new Stage($("stage"), moved);
const now = { model: null, file: null, moment: 0, scene: null, seeds: [0, 1, 2, 3, 4, 5], truncation: 0.7 };
const trail = { done: [], undone: [], burst: "", at: 0 };
let clip = null; // the upload that `now.file` is, if it is a clip
let greeted = false;
let restore = null; // the pose to go back to when the connection is there again
let moving = 0; // of the animation that runs
let resting = 0;
let drawn = 0; // the number of the newest picture that is shown

history.replaceState(null, "", "/" + location.hash); // the secret does not stay in the address
const live = new Live(hear, changed);

// The connection

async function changed(state) {
  if (state === "open") {
    unsay("connection");
    if (await listModels()) open({}, true);
    return;
  }
  $("status").textContent = "Not connected";
  const told = {
    lost: "The server is not there. If it was stopped, start “autolink serve” again; this page goes on by itself.",
    locked: "The server was started anew and has a new address. Open the one that it printed in the terminal.",
  };
  say("connection", told[state], true);
}

async function listModels() {
  let models, runs;
  try {
    [models, runs] = await Promise.all(["/api/models", "/api/runs"].map((path) => heard(fetch(path), "")));
  } catch (error) {
    if (error.message) heardError({ about: "models", message: error.message }); // else the connection is lost, which is told
    return false;
  }
  unsay("models");
  $("views").querySelector("[href='#runs']").hidden = runs === null;
  const groups = Object.entries(KINDS).map(([kind, label]) => [label, ({ of }) => of !== "runs", kind]);
  groups.push(["Of your runs", ({ of }) => of === "runs", null]);
  $("model").replaceChildren();
  for (const [label, belongs, kind] of groups) {
    const group = document.createElement("optgroup");
    group.label = label;
    const listed = models.filter((model) => belongs(model) && (!kind || model.kind === kind));
    group.append(...listed.map(({ name }) => new Option(name.replace(/^run /, ""), name)));
    if (listed.length) $("model").append(group);
  }
  for (const { know } of Object.values(views)) know?.(models);
  now.model ??= models[0].name;
  $("model").value = now.model;
  $("model").disabled = false;
  return true;
}

function hear(header, parts) {
  ({ loading: heardLoading, opened: heardOpened, painted: heardPainted, file: heardFile, error: heardError })[header.type](
    header,
    parts,
  );
}

function heardLoading(header) {
  $("pose").classList.add("loading");
  $("status").textContent = `Opening with ${header.model}…`;
}

async function heardOpened(header, parts) {
  const scene = { ...header, home: header.points.flat() };
  now.scene = scene;
  now.moment = header.moment;
  $("pose").classList.remove("loading");
  $("pose").setAttribute("aria-busy", "false");
  $("stage").classList.remove("empty");
  $("stage").querySelector(".invite")?.remove();
  stage.show({ home: scene.home, edges: header.edges, covariance: header.covariance });
  stage.hasPicture = Boolean(parts.shown);
  const shown = parts.shown && (await createImageBitmap(parts.shown));
  if (now.scene !== scene) return; // another one has been opened since
  if (shown) draw(stage.canvas, shown);
  stage.canvas.setAttribute("aria-label", shown ? "The picture that was opened" : "Edge map of the pose");
  document.querySelector(".edges").hidden = !shown;
  const several = header.kind === "generator";
  $("result").classList.toggle("several", several);
  $("result").replaceChildren();
  $("again").hidden = $("variety-row").hidden = !several;
  $("result-caption").textContent = several ? "Six of whom do not exist, in this pose" : "Result, generated";
  showSliders();
  await showThumbnails(parts.thumbnails);
  if (now.scene !== scene) return;
  forget();
  if (!header.sure) {
    say("sure", `${header.model} is not sure that this picture shows what it knows, so the points are a guess. Try one of a single subject, well seen.`);
  } else unsay("sure");
  const back = restore;
  restore = null;
  if (back && back.length === scene.home.length) go(back);
  else ask(512);
  if (!greeted) nod();
  greeted = true;
}

async function heardPainted(header, parts) {
  $("status").textContent = `${Math.round(header.milliseconds)} ms a picture`;
  const [result, edges] = await Promise.all([createImageBitmap(parts.result), createImageBitmap(parts.edges)]);
  if (header.n < drawn) return;
  drawn = header.n;
  while ($("result").children.length < header.count) {
    const canvas = $("result").appendChild(document.createElement("canvas"));
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Generated picture in this pose");
  }
  const side = result.width / header.count;
  [...$("result").children].forEach((canvas, number) => draw(canvas, result, number * side, side));
  draw(stage.hasPicture ? $("edges") : stage.canvas, edges);
  if (header.size === 512) for (const canvas of $("result").children) canvas.setAttribute("aria-label", inWords());
  Object.assign($("result").dataset, { n: header.n, size: header.size, milliseconds: header.milliseconds });
}

// What is painted, for those who do not see it: where the pose is on each slider, of 1.
function inWords() {
  const places = now.scene.sliders.map((slider) => `${slider.name} ${(place(slider) / slider.reach).toFixed(1)}`);
  return ["Generated picture", places.join(", ")].filter(Boolean).join(": ");
}

function heardFile(header, parts) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(parts.file);
  link.download = header.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function heardError(header) {
  say(header.about, header.message, true);
  if (header.about !== "open" && header.about !== "models") return;
  $("pose").classList.remove("loading");
  $("pose").setAttribute("aria-busy", "false");
  $("status").textContent = "";
  if (now.file) {
    now.file = clip = null;
    $("moment-row").hidden = true;
    open({}, true);
  } else invite(header.message);
}

// What is open

function open(changes, keep = false) {
  if (keep) restore = stage.pose.length && now.scene ? stage.pose.slice() : null;
  Object.assign(now, changes);
  live.open({ model: now.model, file: now.file, moment: now.moment });
}

async function upload(file) {
  if (!file) return;
  $("status").textContent = `Reading ${file.name}…`;
  try {
    const told = await sendFile(file);
    clip = told.kind === "clip" ? told : null;
    $("moment-row").hidden = !clip;
    $("moment").value = 0;
    showTime();
    unsay("file");
    open({ file: told.id, moment: 0 });
  } catch (error) {
    $("status").textContent = "";
    say("file", error.message, true);
  }
}

function showTime() {
  const seconds = Number($("moment").value) * (clip?.seconds || 0);
  $("moment-time").textContent = `${seconds.toFixed(1)} s of ${(clip?.seconds || 0).toFixed(1)} s`;
}

function invite(message) {
  now.scene = null;
  $("stage").classList.add("empty");
  $("stage").querySelector(".invite")?.remove();
  const told = document.createElement("p");
  told.className = "invite";
  told.textContent = sentence(message);
  $("stage").append(told);
}

// The pose

function moved(pose, phase, burst = "") {
  stopMoving();
  if (phase === "start") remember(pose, burst);
  else changedPose();
}

function changedPose() {
  showPlaces();
  ask(256);
  clearTimeout(resting);
  resting = setTimeout(() => ask(512), REST);
}

function ask(size) {
  if (now.scene) live.paint({ ...wanted(), size });
}

function wanted() {
  const xy = stage.points.map((_, k) => stage.pose.slice(2 * k, 2 * k + 2));
  return { xy, look: { seeds: now.seeds, truncation: now.truncation } };
}

function go(pose) {
  stage.place(pose.slice());
  changedPose();
}

// Move there smoothly, or at once for whom movement is too much.
function glide(pose, duration = 320) {
  if (still.matches) return go(pose);
  const from = stage.pose.slice();
  animate(duration, (t) => {
    const share = t * t * (3 - 2 * t);
    go(from.map((value, at) => value + share * (pose[at] - value)));
  });
}

// Once, when the page is opened: so one sees that the picture moves.
function nod() {
  const slider = now.scene.sliders[0];
  if (still.matches || !slider) return;
  const from = stage.pose.slice();
  animate(1500, (t) => {
    const by = 0.3 * slider.reach * Math.sin(2 * Math.PI * t) * Math.sin(Math.PI * t);
    go(from.map((value, at) => value + by * slider.move[at]));
  });
}

function animate(duration, step) {
  stopMoving();
  const begin = performance.now();
  const tick = (time) => {
    const t = Math.min(1, (time - begin) / duration);
    step(t);
    moving = t < 1 ? requestAnimationFrame(tick) : 0;
  };
  moving = requestAnimationFrame(tick);
}

function stopMoving() {
  cancelAnimationFrame(moving);
  moving = 0;
}

// Undo

function remember(pose, burst = "") {
  const soon = performance.now() - trail.at < 1000;
  if (!(burst && burst === trail.burst && soon)) trail.done.push(pose.slice());
  trail.burst = burst;
  trail.at = performance.now();
  trail.undone = [];
  showHistory();
}

function forget() {
  trail.done = [];
  trail.undone = [];
  trail.burst = "";
  showHistory();
}

function step(from, to) {
  if (!from.length) return;
  stopMoving();
  to.push(stage.pose.slice());
  trail.burst = "";
  go(from.pop());
  showHistory();
}

function showHistory() {
  $("undo").disabled = !trail.done.length;
  $("redo").disabled = !trail.undone.length;
  $("reset").disabled = !now.scene;
}

// Sliders and thumbnails

function showSliders() {
  $("sliders").replaceChildren(
    ...now.scene.sliders.map((slider) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "range", min: -1, max: 1, step: 0.01 });
      input.addEventListener("input", () => {
        stopMoving();
        remember(stage.pose, slider.name);
        const by = Number(input.value) * slider.reach - place(slider);
        stage.place(stage.pose.map((value, at) => value + by * slider.move[at]));
        changedPose();
      });
      label.append(slider.name[0].toUpperCase() + slider.name.slice(1), input);
      return label;
    }),
  );
  showPlaces();
}

function place(slider) {
  const rest = now.scene.rest.flat();
  return slider.read.reduce((sum, weight, at) => sum + weight * (stage.pose[at] - rest[at]), 0);
}

function showPlaces() {
  now.scene.sliders.forEach((slider, number) => {
    const input = $("sliders").children[number].querySelector("input");
    if (document.activeElement !== input || !input.matches(":active")) input.value = place(slider) / slider.reach;
  });
}

async function showThumbnails(blob) {
  if (!blob) return $("thumbnails").replaceChildren();
  const strip = await createImageBitmap(blob);
  $("thumbnails").replaceChildren(
    ...now.scene.poses.map((pose, number) => {
      const button = document.createElement("button");
      button.setAttribute("aria-label", `Pose ${number + 1}`);
      const canvas = button.appendChild(document.createElement("canvas"));
      draw(canvas, strip, number * strip.height, strip.height);
      button.addEventListener("click", () => {
        remember(stage.pose);
        glide(pose.flat());
      });
      return button;
    }),
  );
}

function draw(canvas, bitmap, left = 0, width = bitmap.width) {
  const side = Math.max(bitmap.height, Math.min(512, canvas.clientWidth * devicePixelRatio || bitmap.height));
  if (canvas.width !== Math.round(side)) canvas.width = canvas.height = Math.round(side);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, left, 0, width, bitmap.height, 0, 0, canvas.width, canvas.height);
}

// What a person is told

function say(topic, text, wrong = false) {
  unsay(topic);
  const message = document.createElement("div");
  message.className = wrong ? "message wrong" : "message";
  message.dataset.topic = topic;
  message.setAttribute("role", wrong ? "alert" : "status");
  const words = document.createElement("span");
  words.textContent = sentence(text);
  message.append(words);
  if (topic !== "connection") {
    const close = document.createElement("button");
    close.textContent = "Close";
    close.addEventListener("click", () => message.remove());
    message.append(close);
  }
  $("messages").append(message);
}

function unsay(topic) {
  $("messages").querySelector(`[data-topic="${topic}"]`)?.remove();
}

function sentence(text) {
  const end = /[.!?]$/.test(text) ? "" : ".";
  return text + end;
}

// Which view is shown

const views = {
  pose: { take: upload },
  video: showVideo({ tell: (text) => (text ? say("video", text, true) : unsay("video")) }),
  camera: showCamera({ tell: (text) => (text ? say("camera", text, true) : unsay("camera")) }),
  runs: showRuns({ wrong: (text) => say("runs", text, true), use }),
};

function current() {
  const name = location.hash.slice(1);
  return name in views ? name : "pose";
}

function view() {
  const wanted = current();
  for (const name in views) $(name).hidden = name !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("status").hidden = wanted !== "pose";
  for (const [name, { shown }] of Object.entries(views)) shown?.(name === wanted);
}

async function use(model) {
  await listModels();
  $("model").value = model;
  location.hash = "#pose";
  open({ model });
}

addEventListener("hashchange", view);
view();

// What a person does

$("model").addEventListener("change", () => open({ model: $("model").value }));
$("open").addEventListener("change", () => {
  upload($("open").files[0]);
  $("open").value = "";
});
for (const label of document.querySelectorAll("label.button")) {
  label.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    label.querySelector("input").click();
  });
}
$("moment").addEventListener("input", () => {
  showTime();
  open({ moment: Number($("moment").value) });
});
for (const radio of document.querySelectorAll("[name=drag]")) {
  radio.addEventListener("change", () => (stage.whole = radio.value === "pose"));
}
$("undo").addEventListener("click", () => step(trail.done, trail.undone));
$("redo").addEventListener("click", () => step(trail.undone, trail.done));
$("reset").addEventListener("click", () => {
  remember(stage.pose);
  glide(now.scene.home);
});
$("again").addEventListener("click", () => {
  now.seeds = now.seeds.map((seed) => seed + now.seeds.length);
  ask(512);
});
$("variety").addEventListener("input", () => {
  now.truncation = Number($("variety").value);
  ask(512);
});
$("export").addEventListener("click", (event) => {
  const kind = event.target.closest("[data-kind]")?.dataset.kind;
  if (!kind || !now.scene) return;
  $("export").open = false;
  live.say({ type: "export", kind, ...wanted() });
});
addEventListener("click", (event) => {
  if (!event.target.closest("#export")) $("export").open = false;
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") $("export").open = false;
  if (!(event.ctrlKey || event.metaKey)) return;
  const key = event.key.toLowerCase();
  if (key === "z" || key === "y") {
    event.preventDefault();
    if (key === "y" || event.shiftKey) step(trail.undone, trail.done);
    else step(trail.done, trail.undone);
  }
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").hidden = !views[current()].take;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  take(event.dataTransfer.files[0], event.target);
});
addEventListener("paste", (event) => take([...event.clipboardData.files][0], event.target));

function take(file, where) {
  if (file) views[current()].take?.(file, where);
}
