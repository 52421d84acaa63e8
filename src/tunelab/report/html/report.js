"use strict";
// A click on a head sorts its table by that column: numbers by size, best first for metrics, texts by letters.
const numberOf = (cell) => {
  const text = cell.dataset.value ?? cell.textContent.trim().replace(/−/g, "-").replace(/,/g, "");
  return text === "" || Number.isNaN(Number.parseFloat(text)) ? null : Number.parseFloat(text);
};
const compare = (first, second) => {
  const [a, b] = [numberOf(first), numberOf(second)];
  if (a === null || b === null) return first.textContent.trim().localeCompare(second.textContent.trim());
  return a - b;
};
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first ?? "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of table.querySelectorAll("thead th")) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column]));
      body.append(...(order === "ascending" ? rows : rows.reverse()));
    });
  });
}
// A link to a configuration opens it, in browsers too that do not do so by themselves.
const open = () => {
  const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
  const details = target?.closest("details");
  if (details && !details.open) {
    details.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();
