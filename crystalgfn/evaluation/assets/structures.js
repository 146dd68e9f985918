// Crystal structures: reads CIF texts and draws them with 3Dmol.js. Fractional coordinates have no unit, lengths are in Å.
const Structures = (() => {
  "use strict";

  const SAME = 2e-3; // fractional coordinates that differ by less are equal
  const FACE = 5e-3; // atoms this close to a face of the cell, in fractional coordinates, are drawn on the opposite face too
  const BOND = 1.15; // two atoms are joined up to this multiple of the sum of their covalent radii
  const SPHERE = 0.45; // radius of a drawn atom, as a share of its covalent radius
  const NONMETALS = new Set(
    "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Sb Te I Xe At Rn".split(" ")
  );
  const CORNER = "corner"; // the element of atoms that are not drawn
  const AXES = [["a", "#d62f2f"], ["b", "#2c9a3f"], ["c", "#3a6fe0"]];

  // The values of a CIF text, by the names of the data items in lower case. Items of a loop have many values.
  function cifItems(text) {
    const words = [];
    const lines = text.split(/\r\n|\n|\r/);
    for (let index = 0; index < lines.length; index++) {
      if (lines[index].startsWith(";")) { // a text of several lines
        const field = [lines[index].slice(1)];
        while (++index < lines.length && !lines[index].startsWith(";")) field.push(lines[index]);
        words.push({ text: field.join("\n"), isValue: true });
        continue;
      }
      // A quote ends a value only if a space follows; "#" begins a comment only after a space.
      for (const [word] of lines[index].matchAll(/'(?:[^']|'(?=\S))*'|"(?:[^"]|"(?=\S))*"|#.*|\S+/g)) {
        if (word.startsWith("#")) break;
        const isQuoted = /^['"]/.test(word) && word.length > 1;
        words.push({ text: isQuoted ? word.slice(1, -1) : word, isValue: isQuoted });
      }
    }
    const isName = (word) => word !== undefined && !word.isValue && word.text.startsWith("_");
    const isValue = (word) => word !== undefined && (word.isValue || !/^(_|loop_$|data_|save_|global_$|stop_$)/i.test(word.text));
    const items = new Map();
    let blocks = 0;
    for (let next = 0; next < words.length;) {
      const word = words[next++];
      if (!word.isValue && /^data_/i.test(word.text) && ++blocks > 1) break; // only the first crystal of the text
      if (!word.isValue && /^loop_$/i.test(word.text)) {
        const columns = [];
        while (isName(words[next])) {
          columns.push([]);
          items.set(words[next++].text.toLowerCase(), columns[columns.length - 1]);
        }
        for (let place = 0; columns.length && isValue(words[next]); place++) columns[place % columns.length].push(words[next++].text);
      } else if (isName(word) && isValue(words[next])) {
        items.set(word.text.toLowerCase(), [words[next++].text]);
      }
    }
    return items;
  }

  // A symmetry operation such as "-y, x-y, z+1/3" as a function of fractional coordinates.
  function operation(text) {
    const rows = text.toLowerCase().split(",").map((part) => {
      const row = [0, 0, 0, 0];
      for (const [, sign, value, below, axis] of part.replace(/\s/g, "").matchAll(/([+-]?)(\d+\.?\d*|\.\d+)?(?:\/(\d+))?\*?([xyz]?)/g)) {
        if (value === undefined && !axis) continue;
        row[axis ? "xyz".indexOf(axis) : 3] += (sign === "-" ? -1 : 1) * (value === undefined ? 1 : value / (below || 1));
      }
      return row;
    });
    return (point) => rows.map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]);
  }

  const wrapped = (value) => {
    const rest = value - Math.floor(value);
    return rest > 1 - FACE ? rest - 1 : rest; // slightly below 0, not slightly below 1
  };
  const isSame = (one, other) => one.every((value, axis) => {
    const apart = Math.abs(value - other[axis]);
    return Math.min(apart, 1 - apart) < SAME;
  });

  // The cell and all atoms in it: {lengths, angles, vectors (Cartesian, rows), atoms: [{element, point (fractional)}]}.
  function readCif(text) {
    const items = cifItems(text);
    const column = (...names) => names.map((name) => items.get(name)).find((values) => values !== undefined);
    const [lengths, angles] = [["length_a", "length_b", "length_c"], ["angle_alpha", "angle_beta", "angle_gamma"]]
      .map((names) => names.map((name) => parseFloat((column(`_cell_${name}`) || [])[0])));
    const labels = column("_atom_site_type_symbol", "_atom_site_label");
    const points = ["x", "y", "z"].map((axis) => column(`_atom_site_fract_${axis}`));
    if (![...lengths, ...angles].every(Number.isFinite) || !labels || !points.every(Boolean)) throw new Error("no crystal in the CIF text");
    const [alpha, beta, gamma] = angles.map((angle) => angle * Math.PI / 180);
    const [a, b, c] = lengths;
    const along = (Math.cos(alpha) - Math.cos(beta) * Math.cos(gamma)) / Math.sin(gamma);
    const vectors = [
      [a, 0, 0],
      [b * Math.cos(gamma), b * Math.sin(gamma), 0],
      [c * Math.cos(beta), c * along, c * Math.sqrt(Math.max(0, 1 - Math.cos(beta) ** 2 - along ** 2))],
    ];
    const operations = (column("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz") || ["x,y,z"]).map(operation);
    const atoms = [];
    labels.forEach((label, row) => {
      const letters = (label.match(/^[A-Za-z]{1,2}/) || ["X"])[0];
      const element = letters[0].toUpperCase() + letters.slice(1).toLowerCase();
      const site = [];
      for (const move of operations) {
        const point = move(points.map((values) => parseFloat(values[row]))).map(wrapped);
        if (!site.some((other) => isSame(point, other))) site.push(point);
      }
      atoms.push(...site.map((point) => ({ element, point })));
    });
    return { lengths, angles, vectors, atoms };
  }

  const cartesian = (vectors, point) => [0, 1, 2].map((axis) => point.reduce((sum, value, row) => sum + value * vectors[row][axis], 0));

  // The atoms to draw for size × size × size cells, those on all faces included: [{element, place: Cartesian}].
  function drawnAtoms(crystal, size) {
    const drawn = [];
    for (const { element, point } of crystal.atoms) {
      const steps = point.map((value) => {
        const last = Math.floor(size + FACE - value);
        return [...Array(last + 1).keys()].map((step) => value + step);
      });
      for (const x of steps[0]) for (const y of steps[1]) for (const z of steps[2]) {
        drawn.push({ element, place: cartesian(crystal.vectors, [x, y, z]) });
      }
    }
    return drawn;
  }

  // Pairs of indices of the atoms that are joined by a line.
  function bonds(atoms, radii) {
    const hasNonmetal = atoms.some(({ element }) => NONMETALS.has(element));
    const order = atoms.map((_, index) => index).sort((i, j) => atoms[i].place[0] - atoms[j].place[0]);
    const widest = 2 * BOND * Math.max(0, ...atoms.map(({ element }) => radii[element] || 0));
    const pairs = [];
    for (let first = 0; first < order.length; first++) {
      const one = atoms[order[first]];
      for (let second = first + 1; second < order.length; second++) {
        const other = atoms[order[second]];
        if (other.place[0] - one.place[0] > widest) break;
        if (hasNonmetal && !NONMETALS.has(one.element) && !NONMETALS.has(other.element)) continue;
        const reach = BOND * ((radii[one.element] || 0) + (radii[other.element] || 0));
        const distance = Math.hypot(...one.place.map((value, axis) => value - other.place[axis]));
        if (distance <= reach) pairs.push([order[first], order[second]]);
      }
    }
    return pairs;
  }

  function hasWebGL() {
    try {
      const canvas = document.createElement("canvas");
      const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
      if (context) context.getExtension("WEBGL_lose_context")?.loseContext();
      return Boolean(context);
    } catch {
      return false;
    }
  }

  const hex = (color) => `#${color.toString(16).padStart(6, "0")}`;
  const colorOf = (element) => hex($3Dmol.elementColors.Jmol[element] ?? $3Dmol.elementColors.defaultColor);
  const fromTheme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A picture that turns, inside an element; `message` is its child for texts.
  class View {
    constructor(element, radii) {
      this.element = element;
      this.message = element.querySelector(".message");
      this.radii = radii;
      this.viewer = null;
      this.shown = null;
      this.canDraw = hasWebGL();
      if (!this.canDraw) {
        this.message.textContent = "Structures cannot be drawn, because this browser has no WebGL. “save CIF” works without it.";
        return;
      }
      this.viewer = $3Dmol.createViewer(element, { backgroundColor: fromTheme("--card"), orthographic: true, disableFog: true });
      window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.shown && this.draw(...this.shown, true));
      // The page scrolls under the pointer, until the reader presses the picture.
      element.addEventListener("pointerdown", () => element.focus({ preventScroll: true }));
      element.addEventListener("wheel", (event) => {
        if (document.activeElement !== element) event.stopPropagation();
      }, { capture: true });
      element.addEventListener("keydown", (event) => {
        const turn = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] }[event.key];
        const zoom = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 }[event.key];
        if ((!turn && !zoom) || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        if (turn) this.viewer.rotate(...turn);
        else this.viewer.zoom(zoom);
        this.viewer.render();
      });
    }

    // Shows a text instead of a structure.
    say(text) {
      this.shown = null;
      if (!this.canDraw) return;
      this.viewer.clear();
      this.viewer.render();
      this.message.textContent = text;
    }

    // Draws size × size × size cells. The direction of view and the zoom stay if `keepsView`.
    draw(crystal, size, keepsView) {
      this.shown = [crystal, size];
      if (!this.canDraw) return;
      this.message.textContent = "";
      const { viewer, radii } = this;
      viewer.clear();
      viewer.setBackgroundColor(fromTheme("--card"));
      const atoms = drawnAtoms(crystal, size);
      const joined = atoms.map(() => []);
      for (const [one, other] of bonds(atoms, radii)) {
        joined[one].push(other);
        joined[other].push(one);
      }
      const model = viewer.addModel();
      model.addAtoms(atoms.map(({ element, place: [x, y, z] }, index) => ({
        elem: element, x, y, z, serial: index, index, bonds: joined[index], bondOrder: joined[index].map(() => 1), properties: {},
      })));
      for (const element of new Set(atoms.map((atom) => atom.element))) {
        viewer.setStyle({ elem: element }, {
          sphere: { radius: SPHERE * (radii[element] || 1.5), color: colorOf(element) },
          stick: { radius: 0.09, color: colorOf(element) },
        });
      }
      // Atoms that are not drawn, at the corners: so the cells are in the middle of the picture.
      const ends = [0, size];
      const corners = ends.flatMap((i) => ends.flatMap((j) => ends.map((k) => cartesian(crystal.vectors, [i, j, k]))));
      model.addAtoms(corners.map(([x, y, z]) => ({ elem: CORNER, x, y, z, bonds: [], bondOrder: [], properties: {} })));
      viewer.setStyle({ elem: CORNER }, {});
      this.drawCells(crystal.vectors, size);
      if (!keepsView) this.reset();
      viewer.render();
    }

    drawCells(vectors, size) {
      const at = (point) => {
        const [x, y, z] = cartesian(vectors, point);
        return { x, y, z };
      };
      const cell = Math.min(...vectors.map((vector) => Math.hypot(...vector)));
      const width = Math.min(0.035, 0.01 * cell);
      const line = (start, end, color, radius) => this.viewer.addCylinder({ start: at(start), end: at(end), radius, color, fromCap: 1, toCap: 1 });
      for (let axis = 0; axis < 3; axis++) {
        for (let i = 0; i <= size; i++) for (let j = 0; j <= size; j++) {
          const start = [0, 0, 0];
          [start[(axis + 1) % 3], start[(axis + 2) % 3]] = [i, j];
          const end = [...start];
          end[axis] = size;
          if (i || j) line(start, end, fromTheme("--muted"), width);
        }
        const [name, color] = AXES[axis];
        const end = [0, 0, 0];
        end[axis] = size;
        line([0, 0, 0], end, color, 2 * width);
        const beyond = [...end];
        beyond[axis] += 1.9 / Math.hypot(...vectors[axis]);
        this.viewer.addLabel(name, {
          position: at(beyond), fontColor: color, showBackground: false, fontSize: 18, bold: true, inFront: true, alignment: "center",
        });
      }
    }

    // Looks at the whole structure from slightly above, with c up, a to the front and b to the right.
    reset() {
      if (!this.viewer || !this.shown) return;
      const [turn, tilt] = [-112, -77].map((angle) => angle * Math.PI / 360);
      const quaternion = [
        Math.sin(tilt) * Math.cos(turn), -Math.sin(tilt) * Math.sin(turn), Math.cos(tilt) * Math.sin(turn), Math.cos(tilt) * Math.cos(turn),
      ];
      this.viewer.setView([0, 0, 0, 0, ...quaternion]);
      this.fit();
    }

    // Moves the whole structure into the picture, without a turn.
    fit() {
      // 3Dmol.js fits the atoms into half of the picture's width, whatever its height is.
      const { clientWidth, clientHeight } = this.element;
      this.viewer.zoomTo();
      this.viewer.zoom(1.75 / Math.max(1, clientWidth / clientHeight));
      this.viewer.render();
    }
  }

  return { View, readCif, drawnAtoms, bonds, colorOf };
})();
