"use strict";
// Sorts the rows of each group of the table by the column whose heading is pressed; groups never mix.
for (const button of document.querySelectorAll("table.runs th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const column = heading.cellIndex;
    const numeric = heading.classList.contains("num");
    const direction = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      // What is not known comes last either way.
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
    };
    for (const body of heading.closest("table").tBodies) {
      const [group, ...rows] = body.rows;
      body.append(group, ...rows.sort(compare));
    }
  });
}
