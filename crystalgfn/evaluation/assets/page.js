// Sorts a table by the column whose heading is pressed. A second press reverses the order. Rows without a value stay last.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  table.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const rising = head.getAttribute("aria-sort") !== "ascending";
      const key = (row) => row.cells[head.cellIndex].dataset.value;
      const isText = head.dataset.kind === "text";
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return (rising ? 1 : -1) * (isText ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      });
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      body.append(...rows);
    });
  });
});
