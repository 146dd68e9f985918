// A table of crystals: filters, and the structure and facts of the crystal that is chosen. The address "…#crystal=NAME"
// chooses a crystal. The data are the blocks of the template evaluation/crystals.html.
document.querySelectorAll(".explorer").forEach((explorer) => {
  "use strict";
  const data = (name) => JSON.parse(document.getElementById(name).textContent);
  const [facts, structures] = [data("crystal-facts"), data("crystal-structures")];
  const find = (selector) => explorer.querySelector(selector);
  const view = new Structures.View(find(".view"), data("bond-radii"));
  const body = find(".crystals tbody");
  const rows = [...body.rows];
  const form = find(".filters");
  const kindButtons = [...explorer.querySelectorAll("[data-kind]")].filter((element) => element.tagName === "BUTTON");
  const sizeButtons = [...explorer.querySelectorAll("[data-size]")];
  const NONE = "–";
  const structuresOf = (row) => (Object.hasOwn(structures, row.dataset.id) ? structures[row.dataset.id] : {});
  let chosen = null; // the row
  let kind = kindButtons[0].dataset.kind;
  let size = 1;

  const addressOf = (row) => `#crystal=${encodeURIComponent(row.dataset.id)}`;
  const make = (name, text = "", attributes = {}) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.textContent = text;
    return element;
  };

  // Elements of a formula or of the reader's text: "NaCl" and "Na4 Cl4" have Na and Cl. None if it is no formula.
  const elementsOf = (text) => (/^(?:[A-Z][a-z]?\d*\s*)+$/.test(text) ? text.match(/[A-Z][a-z]?/g) : null);
  const known = new Set();
  for (const row of rows) {
    row.elements = new Set(elementsOf(row.dataset.formula) || []);
    row.elements.forEach((element) => known.add(element));
    const formula = row.dataset.formula.replaceAll(" ", "");
    row.words = [formula, formula.replace(/([A-Za-z])1(?!\d)/g, "$1"), row.dataset.symbol, row.dataset.id].join("\n").toLowerCase();
  }

  function passes(row, terms) {
    return terms.every((term) => {
      if (/^\d+$/.test(term)) return row.dataset.group === term;
      const elements = /\d/.test(term) ? null : elementsOf(term);
      if (elements && elements.every((element) => known.has(element))) return elements.every((element) => row.elements.has(element));
      return row.words.includes(term.toLowerCase());
    });
  }

  function filter() {
    const terms = form.elements.text.value.trim().split(/\s+/).filter(Boolean);
    const marks = [...form.querySelectorAll("[name=mark]:checked")].map((box) => box.value);
    let count = 0;
    for (const row of rows) {
      const own = row.dataset.marks.split(" ");
      row.hidden = !(marks.every((mark) => own.includes(mark)) && passes(row, terms));
      count += !row.hidden;
    }
    if (chosen === null || chosen.hidden) setTabStop([...body.rows].find((row) => !row.hidden));
    else setTabStop(chosen);
    form.querySelector("output").textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} crystals`;
  }
  // One row can be reached with the tab key, the others with the arrow keys.
  function setTabStop(row) {
    rows.forEach((other) => { other.tabIndex = other === row ? 0 : -1; });
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());

  function showFacts(id) {
    const own = facts.crystals[id];
    const table = make("table");
    const head = table.createTHead().insertRow();
    head.append(...["", ...facts.columns].map((text, index) => make("th", text, { scope: "col", className: index ? "num" : "" })));
    const lines = table.createTBody();
    facts.rows.forEach((name, row) => {
      if (own.table[row].every((text) => text === null)) return;
      const line = lines.insertRow();
      line.append(make("th", name, { scope: "row" }), ...own.table[row].map((text) => make("td", text ?? NONE, { className: "num" })));
    });
    const list = make("dl", "", { className: "described" });
    facts.names.forEach((name, index) => {
      if (own.facts[index] !== null) list.append(make("dt", name), make("dd", own.facts[index]));
    });
    const scroll = make("div", "", { className: "scroll" });
    scroll.append(table);
    find(".facts").replaceChildren(...(lines.rows.length ? [scroll] : []), list);
  }

  function showStructure(keepsView) {
    const own = structuresOf(chosen);
    const has = (name) => Object.hasOwn(own, name);
    if (!has(kind)) kind = kindButtons.map((button) => button.dataset.kind).find(has) ?? kind;
    for (const button of kindButtons) {
      button.disabled = !has(button.dataset.kind);
      button.setAttribute("aria-pressed", button.dataset.kind === kind && !button.disabled);
    }
    sizeButtons.forEach((button) => button.setAttribute("aria-pressed", Number(button.dataset.size) === size));
    find(".save").disabled = !has(kind);
    const [legend, cell] = [find(".legend"), find(".cell")];
    let crystal = null;
    let problem = "There is no structure of this crystal.";
    if (has(kind)) {
      try {
        crystal = Structures.readCif(own[kind]);
      } catch (error) {
        problem = `The structure cannot be drawn: ${error.message}.`;
      }
    }
    find(".view").setAttribute("aria-label", crystal ? `Structure of ${chosen.dataset.formula}, ${kind}` : problem);
    if (crystal === null) {
      view.say(problem);
      legend.replaceChildren();
      cell.textContent = view.canDraw ? "" : problem;
      return;
    }
    view.draw(crystal, size, keepsView);
    legend.replaceChildren(...[...new Set(crystal.atoms.map((atom) => atom.element))].map((element) => {
      const item = make("li", element);
      const dot = make("i");
      dot.style.background = Structures.colorOf(element);
      item.prepend(dot);
      return item;
    }));
    const [lengths, angles] = [crystal.lengths.map((x) => x.toFixed(2)), crystal.angles.map((x) => x.toFixed(1))];
    cell.textContent = `a b c ${lengths.join(" ")} Å; α β γ ${angles.join(" ")}°`;
  }

  function choose(row) {
    const isOther = row !== chosen;
    chosen?.removeAttribute("aria-current");
    chosen = row;
    row.setAttribute("aria-current", "true");
    setTabStop(row);
    // The first cell of a row is the formula.
    find(".title h3").replaceChildren(...row.cells[0].cloneNode(true).childNodes);
    find(".title .note").textContent = [row.dataset.symbol && `${row.dataset.symbol} (${row.dataset.group})`, row.dataset.id].filter(Boolean).join(", ");
    showFacts(row.dataset.id);
    showStructure(!isOther);
  }

  // Chooses a row for the reader: the address names it then, and the structure comes into sight.
  function chooseAndShow(row) {
    choose(row);
    history.replaceState(null, "", addressOf(row));
    find(".view").scrollIntoView({ block: "nearest" });
  }

  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) chooseAndShow(row);
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      chooseAndShow(row);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? "nextElementSibling" : "previousElementSibling";
      let next = row[step];
      while (next?.hidden) next = next[step];
      if (next) {
        setTabStop(next);
        next.focus();
      }
    }
  });
  kindButtons.forEach((button) => button.addEventListener("click", () => {
    kind = button.dataset.kind;
    showStructure(true);
  }));
  sizeButtons.forEach((button) => button.addEventListener("click", () => {
    size = Number(button.dataset.size);
    showStructure(true);
    if (view.viewer && view.shown) view.fit();
  }));
  find(".reset").addEventListener("click", () => view.reset());
  find(".save").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([structuresOf(chosen)[kind]], { type: "chemical/x-cif" }));
    const name = `${chosen.dataset.id}-${kind}`.replace(/[^\w.+-]+/g, "_");
    make("a", "", { href: address, download: `${name}.cif` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });

  function fromAddress() {
    const row = rows.find((other) => location.hash === addressOf(other));
    if (row) {
      row.scrollIntoView({ block: "nearest" });
      choose(row);
      find(".view").scrollIntoView({ block: "nearest" });
    }
    return Boolean(row);
  }
  window.addEventListener("hashchange", fromAddress);
  filter();
  if (!fromAddress() && rows.length) {
    const drawable = rows.filter((row) => Object.keys(structuresOf(row)).length);
    choose(drawable.find((row) => row.dataset.marks.split(" ").includes("survives")) ?? drawable[0] ?? rows[0]);
  }
});
