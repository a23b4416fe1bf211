// Nothing but the picture that acts out what the camera sees, for a program that takes it from here.

import { Live } from "/assets/live.js";

const canvas = document.getElementById("out");
const pen = canvas.getContext("2d");
pen.imageSmoothingQuality = "high";
history.replaceState(null, "", "/out"); // the secret does not stay in the address
let shown = 0;

const live = new Live(async (header, parts) => {
  if (header.type !== "acted") return;
  pen.drawImage(await createImageBitmap(parts.result), 0, 0, canvas.width, canvas.height);
  canvas.dataset.n = ++shown;
}, (state) => {
  if (state === "open") live.say({ type: "watch" });
});
