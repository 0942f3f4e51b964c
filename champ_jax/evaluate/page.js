"use strict";
// Tables sort by a click on a column's name: numbers as numbers, what is absent last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const th = button.closest("th"), table = th.closest("table"), column = th.cellIndex;
    const down = th.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const x = key(a), y = key(b), p = Number(x), q = Number(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  });
}

// A player holds one video with the generated frames and, on their right, the reference's, so that both are always at the same frame.
const shared = JSON.parse(document.getElementById("shared")?.textContent ?? "{}");

class Player {
  constructor(root) {
    this.root = root;
    this.about = JSON.parse(root.querySelector("script").textContent);
    this.video = root.querySelector("video");
    this.range = root.querySelector("input[type=range]");
    this.button = root.querySelector("button.play");
    this.label = root.querySelector("output");
    this.options = Object.fromEntries([...root.querySelectorAll("[data-option]")].map((box) => [box.dataset.option, box]));
    this.views = Object.fromEntries([...root.querySelectorAll("canvas")].map((canvas) => [canvas.dataset.view, canvas]));
    this.frame = 0;
    this.button.addEventListener("click", () => (this.video.paused ? this.video.play() : this.video.pause()));
    this.video.addEventListener("play", () => { this.button.textContent = "Pause"; this.follow(); });
    this.video.addEventListener("pause", () => { this.button.textContent = "Play"; this.draw(); });
    for (const name of ["loadeddata", "seeked"]) this.video.addEventListener(name, () => this.draw());
    this.range.addEventListener("input", () => this.seek(Number(this.range.value)));
    for (const box of Object.values(this.options)) box.addEventListener("change", () => this.set());
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && event.target !== this.range) { event.preventDefault(); this.video.pause(); this.seek(this.frame + step); }
    });
    if (this.video.readyState >= 2) this.draw();
  }

  set() {
    if (this.options.speed) this.video.playbackRate = Number(this.options.speed.value);
    this.draw();
  }

  seek(frame) {
    this.frame = Math.max(0, Math.min(this.about.frames - 1, frame));
    this.video.currentTime = (this.frame + 0.5) / this.about.fps;
  }

  follow() {
    const next = () => { this.draw(); if (!this.video.paused) this.follow(); };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(next); else requestAnimationFrame(next);
  }

  draw() {
    const { width, height, frames, fps } = this.about;
    this.frame = Math.max(0, Math.min(frames - 1, Math.floor(this.video.currentTime * fps + 1e-3)));
    this.range.value = this.frame;
    this.label.textContent = `${this.frame + 1}/${frames}`;
    const part = (context, side) => context.drawImage(this.video, side * width, 0, width, height, 0, 0, width, height);
    for (const [view, canvas] of Object.entries(this.views)) {
      const context = canvas.getContext("2d");
      context.globalCompositeOperation = "source-over";
      context.filter = "none";
      part(context, view === "reference" ? 1 : 0);
      if (view === "difference") {
        context.globalCompositeOperation = "difference";
        part(context, 1);
        context.globalCompositeOperation = "copy";
        context.filter = "brightness(4)";
        context.drawImage(canvas, 0, 0);
      } else if (this.options.skeleton?.checked) this.skeleton(context, this.about.poses?.[view]?.[this.frame]);
    }
  }

  skeleton(context, joints) {
    if (!joints) return;
    context.lineWidth = Math.max(2, this.about.height / 120);
    context.lineCap = "round";
    shared.limbs.forEach(([from, to], index) => {
      if (!joints[from] || !joints[to]) return;
      context.strokeStyle = shared.colours[index];
      context.beginPath();
      context.moveTo(...joints[from]);
      context.lineTo(...joints[to]);
      context.stroke();
    });
  }
}
window.players = [...document.querySelectorAll(".player")].map((root) => new Player(root));
