"use strict";
// Sorts and filters the examples that are on the page. Without it they stand worst first.
const list = document.getElementById("examples");
const control = (name) => document.getElementById(name);
const examples = [...list.children].map((element) => ({
  element,
  badge: element.querySelector(".badge"),
  place: Number(element.dataset.place),
  changes: JSON.parse(element.dataset.changes),
  differ: element.dataset.differ === "1",
  cut: element.dataset.cut === "1",
  words: element.textContent.toLowerCase(),
}));

function isShown(example, change) {
  switch (control("show").value) {
    case "worse": return change < 0;
    case "better": return change > 0;
    case "equal": return change === 0;
    case "differ": return example.differ;
    case "cut": return example.cut;
    default: return true;
  }
}

function update() {
  const metric = control("metric").value;
  const model = control("model").value;
  const words = control("words").value.trim().toLowerCase();
  const sign = { worst: 1, best: -1, file: 0 }[control("order").value];
  const change = (example) => example.changes[model]?.[metric];
  const known = (example) => change(example) ?? 0;
  const ordered = [...examples].sort((a, b) => sign * (known(a) - known(b)) || a.place - b.place);
  let shown = 0;
  for (const example of ordered) {
    const visible = isShown(example, change(example)) && example.words.includes(words);
    example.element.hidden = !visible;
    shown += visible;
    const difference = change(example);
    example.badge.hidden = !difference;
    example.badge.className = difference < 0 ? "badge worse" : "badge better";
    example.badge.textContent = difference < 0 ? "worse" : "better";
  }
  list.append(...ordered.map((example) => example.element));
  control("shown").textContent = `${shown} of ${examples.length}`;
}

for (const name of ["show", "metric", "model", "order"]) control(name).addEventListener("change", update);
control("words").addEventListener("input", update);
update();
