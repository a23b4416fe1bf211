// The stage in a notebook. It follows stage.js in one module, and asks the kernel what the page asks the server.

const LOOK = { seeds: [0, 1, 2, 3, 4, 5], truncation: 0.7 };

function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  root.className = "autolink";
  const shown = root.appendChild(document.createElement("div"));
  shown.className = "stage";
  const result = root.appendChild(document.createElement("div"));
  result.className = "result";
  const told = root.appendChild(document.createElement("p"));
  told.setAttribute("role", "status");
  const stage = new Stage(shown, (pose, phase) => {
    if (phase === "start") return;
    paint();
    if (phase === "end") keep();
  });
  let flying = false;
  let waiting = false;
  let number = 0;
  let own = false; // whether the pose was set from here
  let picture = false;

  function keep() {
    own = true;
    model.set("pose", [...stage.pose]);
    model.save_changes();
    own = false;
  }

  // One picture is in flight, and the newest pose waits for it.
  function paint() {
    if (flying) return (waiting = true);
    flying = true;
    const xy = stage.points.map((_, k) => stage.pose.slice(2 * k, 2 * k + 2));
    model.send(JSON.stringify({ type: "pose", n: ++number, xy, look: LOOK, size: model.get("size") }));
  }

  async function hear(said, buffers) {
    if (said.type === "error") {
      told.textContent = said.message;
      flying = false;
      return;
    }
    const images = {};
    for (const [at, { name, type }] of said.parts.entries()) {
      images[name] = await createImageBitmap(new Blob([buffers[at]], { type }));
    }
    if (said.type === "opened") {
      stage.show({ home: said.points.flat(), edges: said.edges, covariance: said.covariance });
      picture = Boolean(images.shown);
      stage.canvas.setAttribute("aria-label", picture ? "The picture that was opened" : "Edge map of the pose");
      if (picture) draw(stage.canvas, images.shown, 0, images.shown.width);
      stage.place([...model.get("pose")]);
      paint();
    } else if (said.type === "painted") {
      flying = false;
      result.classList.toggle("several", said.count > 1);
      while (result.children.length < said.count) {
        const canvas = result.appendChild(document.createElement("canvas"));
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", "Generated picture in this pose");
      }
      const side = images.result.width / said.count;
      [...result.children].forEach((canvas, at) => draw(canvas, images.result, at * side, side));
      if (!picture) draw(stage.canvas, images.edges, 0, images.edges.width);
      result.dataset.n = said.n;
      if (waiting) {
        waiting = false;
        paint();
      }
    }
  }

  function changed() {
    if (own || !stage.points.length) return;
    stage.place([...model.get("pose")]);
    paint();
  }

  model.on("msg:custom", hear);
  model.on("change:pose", changed);
  model.send(JSON.stringify({ type: "open", model: "" }));
  return () => {
    model.off("msg:custom", hear);
    model.off("change:pose", changed);
  };
}

function draw(canvas, bitmap, left, side) {
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(bitmap, left, 0, side, bitmap.height, 0, 0, side, side);
}

export default { render };
