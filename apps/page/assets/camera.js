// The camera as driver: a frame goes to the server when the picture of the one before is here, so it is always the newest.

import { Live, sendFile } from "/assets/live.js";

const WIDTH = 480; // of a frame that is sent
const QUALITY = 0.8;
const $ = (id) => document.getElementById(id);

// `tell(text)` tells a person what went wrong, or that nothing is wrong any more.
export function showCamera({ tell }) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
  const sent = document.createElement("canvas");
  let live = null;
  let stream = null;
  let file = null;
  let points = [];
  let edges = [];
  let count = 0;
  let times = 0; // that a picture was opened
  let fresh = false; // whether what the camera sees now has not been sent

  async function start() {
    $("camera-start").disabled = true;
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
    } catch (error) {
      return tell(REFUSED[error.name] ?? `The camera cannot be used (${error.name}).`);
    } finally {
      $("camera-start").disabled = false;
    }
    tell();
    stream.getVideoTracks()[0].addEventListener("ended", () => stop("The camera was taken away."));
    video.srcObject = stream;
    await video.play();
    $("camera-start").textContent = "Stop the camera";
    $("neutral").disabled = false;
    count = 0;
    look();
  }

  function stop(why = "The camera is off.") {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
    $("camera-start").textContent = "Start the camera";
    $("neutral").disabled = true;
    $("camera-state").textContent = why;
    points = [];
    fresh = false;
  }

  // Draw what the camera sees, and send it if the server has answered; if not, it goes as soon as it has.
  function look() {
    if (!stream) return;
    if (video.videoWidth) {
      const scale = Math.min(1, WIDTH / video.videoWidth);
      grow(sent, Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale));
      const pen = sent.getContext("2d", { alpha: false });
      pen.setTransform($("mirror").checked ? -1 : 1, 0, 0, 1, $("mirror").checked ? sent.width : 0, 0);
      pen.drawImage(video, 0, 0, sent.width, sent.height);
      drawSeen();
      fresh = true;
      offer();
    }
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(look);
    else requestAnimationFrame(look);
  }

  function offer() {
    if (!fresh || !live?.free) return;
    fresh = false;
    const [, text] = sent.toDataURL("image/jpeg", QUALITY).split(","); // `toBlob` would wait for idle time, 50 ms and more
    live.act(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  }

  function drawSeen() {
    const canvas = $("seen");
    grow(canvas, sent.width, sent.height);
    const pen = canvas.getContext("2d");
    pen.drawImage(sent, 0, 0);
    const at = (k) => [((points[k][0] + 1) / 2) * canvas.width, ((points[k][1] + 1) / 2) * canvas.height];
    if (!points.length) return;
    pen.strokeStyle = pen.fillStyle = "#ff6b2c";
    pen.lineWidth = 2;
    for (const [i, j, weight] of edges) {
      pen.globalAlpha = 0.3 + 0.7 * weight * weight;
      pen.beginPath();
      pen.moveTo(...at(i));
      pen.lineTo(...at(j));
      pen.stroke();
    }
    pen.globalAlpha = 1;
    for (const k of points.keys()) {
      pen.beginPath();
      pen.arc(...at(k), 3, 0, 7);
      pen.fill();
    }
  }

  async function hear(header, parts) {
    if (header.type === "opened") {
      edges = header.edges;
      Object.assign($("acted").dataset, { opened: ++times, neutral: false });
      drawResult(await createImageBitmap(parts.shown));
      tell(header.sure ? "" : `${header.model} is not sure that this picture shows what it knows. Try one of a single subject, well seen.`);
    } else if (header.type === "acted") {
      offer(); // before this one is drawn
      points = header.sure ? header.seen : [];
      const state = header.neutral ? `Acting, ${Math.round(header.milliseconds)} ms a picture.` : "Hold still for a moment, and look ahead.";
      $("camera-state").textContent = header.sure ? state : "Nobody is seen clearly; come nearer, into the light.";
      drawResult(await createImageBitmap(parts.result));
      Object.assign($("acted").dataset, { n: ++count, neutral: header.neutral, sure: header.sure, milliseconds: header.milliseconds });
    } else if (header.type === "error") tell(header.message);
  }

  function drawResult(bitmap) {
    const canvas = $("acted");
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  }

  function open() {
    points = [];
    if (live?.ready && $("camera-model").value) live.open({ model: $("camera-model").value, file, moment: 0 });
  }

  async function take(picture) {
    try {
      file = (await sendFile(picture)).id;
      open();
    } catch (error) {
      tell(error.message);
    }
  }

  $("camera-start").addEventListener("click", () => (stream ? stop() : start()));
  $("neutral").addEventListener("click", () => live?.say({ type: "neutral" }));
  $("camera-model").addEventListener("change", open);
  $("mirror").addEventListener("change", open); // a mirrored pose wants a neutral one anew
  $("camera-open").addEventListener("change", () => {
    if ($("camera-open").files[0]) take($("camera-open").files[0]);
    $("camera-open").value = "";
  });

  return {
    take,
    know(all) {
      const models = all.filter(({ kind }) => kind === "portrait").map(({ name }) => name);
      const before = $("camera-model").value;
      $("camera-model").replaceChildren(...models.map((name) => new Option(name.replace(/^run /, ""), name)));
      if (models.includes(before)) $("camera-model").value = before;
      if (!before) open(); // this view was there before the models were known
    },
    shown(on) {
      if (on && !live) live = new Live(hear, (state) => state === "open" && open());
      if (on || !live) return;
      if (stream) stop();
      live.close();
      live = null;
    },
  };
}

const REFUSED = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it beside the address, and start again.",
  NotFoundError: "No camera was found. Plug one in, and start again.",
  NotReadableError: "The camera is in use by another program. Close that, and start again.",
  SecurityError: "Browsers give their camera only to pages of this machine. Open the page as http://127.0.0.1:…, through a tunnel if need be.",
};

function grow(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}
