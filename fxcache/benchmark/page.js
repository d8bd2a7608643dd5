"use strict";

function sortBy(head) {
  const row = head.parentNode, body = head.closest("table").tBodies[0];
  const column = [...row.cells].indexOf(head);
  const descending = head.getAttribute("aria-sort") !== "descending";
  for (const cell of row.cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (line) => { const text = line.cells[column].textContent, number = parseFloat(text); return isNaN(number) ? text : number; };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b)) * (descending ? -1 : 1)));
}

const REACH = 28; // pixels from a point within which it is meant: a finger's width
const card = document.getElementById("card");

function section(point) { return document.getElementById("row-" + point.dataset.row); }

function show(point) {
  if (point.classList.contains("shown")) return;
  hide();
  point.classList.add("shown");
  const from = section(point), [strip, difference] = from.querySelectorAll(".strip img");
  card.querySelector("strong").textContent = from.querySelector("h3").textContent;
  card.querySelector("p").textContent = from.querySelector(".numbers").textContent;
  const [first, second] = card.querySelectorAll("img");
  first.src = strip.src;
  second.src = difference.src;
  card.hidden = false;
  const at = point.getBoundingClientRect(), size = card.getBoundingClientRect();
  const left = at.right + 12 + size.width < innerWidth ? at.right + 12 : Math.max(at.left - 12 - size.width, 8);
  card.style.left = left + "px";
  card.style.top = Math.max(Math.min(at.top, innerHeight - size.height - 8), 8) + "px";
}

function hide() {
  for (const point of document.querySelectorAll(".point.shown")) point.classList.remove("shown");
  card.hidden = true;
}

function nearest(svg, event) {
  let best = null, least = REACH;
  for (const point of svg.querySelectorAll(".point")) {
    const box = point.getBoundingClientRect();
    const away = Math.hypot(event.clientX - (box.left + box.right) / 2, event.clientY - (box.top + box.bottom) / 2);
    if (away < least) [best, least] = [point, away];
  }
  return best;
}

function open(point) { section(point).scrollIntoView({ behavior: "smooth", block: "center" }); }

function watch(svg) {
  const meant = (event) => { const point = nearest(svg, event); if (point) show(point); else hide(); return point; };
  svg.addEventListener("pointermove", meant);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("click", (event) => { const point = meant(event); if (point && event.pointerType === "mouse") open(point); });
  svg.addEventListener("focusin", (event) => show(event.target.closest(".point")));
  svg.addEventListener("focusout", hide);
  svg.addEventListener("keydown", (event) => { if (event.key === "Enter") open(event.target.closest(".point")); });
}

for (const head of document.querySelectorAll(".sortable th")) {
  head.addEventListener("click", () => sortBy(head));
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sortBy(head); });
}
for (const svg of document.querySelectorAll(".plot svg")) {
  for (const point of svg.querySelectorAll(".point")) point.setAttribute("aria-label", section(point).querySelector("h3").textContent);
  watch(svg);
}
document.addEventListener("scroll", hide, { passive: true });
document.getElementById("both").addEventListener("change", (event) => document.getElementById("settings").classList.toggle("both", event.target.checked));
