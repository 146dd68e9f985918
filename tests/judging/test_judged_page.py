"""The page of a judgement: its HTML without a browser, and what a reader does with it in Chromium."""

import html
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jinja2
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystalgfn.evaluation import pages
from crystalgfn.evaluation.intervals import tally_with_interval
from crystalgfn.judging import page

POTENTIALS = ["CHGNet", "SevenNet:7net-0"]
NASTY = "</script><b>\"x'&"
"""A name that must be escaped in texts, attributes and blocks of data."""


def salt(a=5.64):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rutile():
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )


def quartz():
    lattice = Lattice.hexagonal(4.91, 5.4)
    return Structure.from_spacegroup("P3_221", lattice, ["Si", "O"], [[0.47, 0, 2 / 3], [0.41, 0.27, 0.78]])


def cif(structure, symprec=0.01):
    return str(CifWriter(structure, symprec=symprec))


def row(name, formula, group, energies, **changes):
    """A crystal as in judged.csv. Energies are those above the hull by each potential."""
    found = {"id": name, "formula": formula, "space_group": group, "n_atoms": 8}
    for slug, energy in zip(("chgnet", "sevennet_7net_0"), energies, strict=True):
        known = math.isfinite(energy)
        each = {
            "formation_energy": energy - 1.5, "energy_above_hull": energy, "energy_above_hull_together": energy + 0.002,
            "space_group": group if known else pd.NA, "volume_change": -0.0123 if known else math.nan,
            "match": known or pd.NA, "displacement": 0.0456 if known else math.nan,
            "min_distance": 2.34 if known else math.nan, "converged": known or pd.NA,
            "cpu_seconds": 12.3 if known else math.nan,
        }  # fmt: skip
        found |= {f"{slug}_{key}": value for key, value in each.items()}
    highest = max(energies)
    survives = highest <= 0.1
    return found | {
        "energy_above_hull": highest, "has_competitor": True, "far_below": False, "molecules": False,
        "collapsed": False, "doubts": "", "keeps_group": survives, "keeps_volume": survives, "match": survives,
        "displacement": 0.0456, "unique": survives, "novel": False, "known_as": "", "prototype": "AB_225_a_b",
        "new_prototype": False, "survives": survives, "sound": survives, "faithful": survives, "cpu_seconds": math.nan,
        "reason": "",
    } | changes  # fmt: skip


def crystals():
    nan = math.nan
    return pd.DataFrame(
        [
            row("high", "Mg1 O1", 221, (0.311, 0.222)),
            row("failed", "K4 F4", 225, (nan, nan), reason=f"CHGNet: {NASTY}", n_atoms=pd.NA),
            row("salt", "Na4 Cl4", 225, (0.051, 0.042), novel=True, cpu_seconds=1.5),
            row(NASTY, "Ti2 O4", 136, (-0.033, -0.044), faithful=False, known_as=NASTY, doubts="molecules: O2 (1.2 Å)"),
        ]
    )


def structures():
    return {
        "high": {"as given": cif(Structure(Lattice.cubic(2.6), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]))},
        "salt": {
            "as given": cif(salt()),
            "CHGNet": cif(salt(5.7)),
            "SevenNet:7net-0": cif(salt(5.8), symprec=None),
        },
        NASTY: {"as given": cif(rutile()), "CHGNet": cif(rutile())},
    }


def summary(with_reference=True):
    n = 397  # a prime number, so that every share is different
    numbers = iter(range(301, 2, -7))

    def tally():
        return tally_with_interval(next(numbers), n)

    def new():
        return tally() if with_reference else None

    each = (*POTENTIALS, "all", "sound", "together", "faithful")
    return {
        "about": {
            "crystals": "samples & <friends>", "hull": "the shipped hull",
            "reference": "known.parquet: 57746 structures", "version": "crystalgfn 9.9.9",
        },
        "crystals": n,
        "potentials": POTENTIALS,
        "failed": {f"CHGNet: {NASTY}": 17, "no structure": 4},
        "survival": {
            threshold: {**{name: tally() for name in each}, "sun": new(), "ssun": new(), "new_prototype": new()}
            for threshold in ("0", "0.08", "0.1")
        },
        "fidelity": {name: tally() for name in ("group", "volume", "group_and_volume", "match")},
        "displacement": 0.0771,
        "novelty": {"unique": tally(), "novel": new(), "new_prototype": new()},
        "apart": {name: tally() for name in ("no_competitor", "far_below", "molecules", "collapsed")},
        "cpu_seconds": {"making": 321.0, "judging": {"CHGNet": 4321.0, "SevenNet:7net-0": 1234.0}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def text():
    return page.render(summary(), crystals(), structures())


class Reader(HTMLParser):
    """Reads a page: tags that do not match, attributes, visible text and blocks of data."""

    VOID = frozenset({"meta", "input", "br", "img", "link", "hr", "col", "source"})

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.elements, self.words, self.blocks = [], [], [], [], {}
        self.scripts, self.styles = [], []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is not closed" for tag, _ in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if len({name for name, _ in attrs}) != len(attrs):
            self.wrong.append(f"an attribute occurs twice: {self.get_starttag_text()}")
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.blocks[attributes["id"]] = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    @property
    def visible(self):
        return " ".join(" ".join(self.words).replace("\xa0", " ").split())


@pytest.fixture(scope="module")
def reader(text):
    return Reader(text)


def tallies(value):
    """All tallies in the content of judged.json."""
    if isinstance(value, dict) and "share" in value:
        return [value]
    return [found for part in value.values() for found in tallies(part)] if isinstance(value, dict) else []


def test_the_page_is_well_formed(text, reader):
    assert text.startswith("<!DOCTYPE html>")
    assert reader.wrong == []
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in reader.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(links) == 7


def test_the_page_loads_nothing(reader):
    for tag, attributes in reader.elements:
        assert not {"src", "srcset", "data", "action", "background", "poster"} & set(attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
        assert tag not in ("link", "base", "iframe", "object", "embed", "img")
    assert not re.search(r"url\(|@import", "".join(reader.styles))
    policy = next(a["content"] for _, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_each_script_is_in_the_page_once(reader):
    assert len(reader.scripts) == len(set(reader.scripts)) == 4
    for name in ("page.js", "3dmol/3Dmol-min.js", "structures.js", "crystals.js"):
        own = str(pages.asset(name))
        assert "</script" not in own.lower()
        assert "<!--" not in own
        assert sum(own.strip() in script for script in reader.scripts) == 1, name


def test_every_number_of_the_summary_is_on_the_page(reader):
    shown = reader.visible
    found = tallies(summary())
    assert len(found) == 3 * 9 + 4 + 3 + 4
    for tally in found:
        assert f"{tally['count']} of 397" in shown
        assert f"{100 * tally['low']:.1f}–{100 * tally['high']:.1f} %" in shown
        assert f"{100 * tally['share']:.1f} %" in shown
    for number in ("397", "0.077 Å", "321 s", "4,321 s", "1,234 s"):
        assert number in shown
    assert f"CHGNet: {NASTY} 17" in shown
    assert "no structure 4" in shown
    # The tiles.
    at = summary()["survival"]
    for share in (at["0.1"]["all"], at["0.1"]["faithful"], at["0.08"]["sun"], summary()["novelty"]["new_prototype"]):
        assert re.search(rf"{100 * share['share']:.1f} % {100 * share['low']:.1f}–", shown)
    assert "Failures 21 of 397 crystals" in shown


def test_the_page_says_under_what_the_crystals_were_judged(reader):
    for words in ("samples & <friends>", "the shipped hull", "known.parquet: 57746 structures", "crystalgfn 9.9.9"):
        assert words in reader.visible
    assert "holds under these potentials and this reference" in reader.visible


def test_every_crystal_is_in_the_table(text, reader):
    rows = [attributes for tag, attributes in reader.elements if tag == "tr" and "data-id" in attributes]
    assert [a["data-id"] for a in rows] == ["high", "failed", "salt", NASTY]
    assert [a["data-marks"].split() for a in rows] == [
        [], [], ["survives", "novel", "faithful"], ["survives"],
    ]  # fmt: skip
    assert [a["data-symbol"] for a in rows] == ["Pm-3m", "Fm-3m", "Fm-3m", "P4_2/mnm"]
    assert "Na<sub>4</sub>Cl<sub>4</sub>" in text
    assert NASTY not in text
    headings = re.findall(r'<button type="button">([^<]*)</button></th>', text)
    cells = re.findall(r'data-value="([^"]*)">', re.search(r'<tr[^>]*data-id="salt".*?</tr>', text, re.DOTALL)[0])
    values = dict(zip(headings, cells, strict=True))
    assert values["above hull [eV/atom]"] == "0.051"
    assert values["by SevenNet:7net-0"] == "0.042"
    assert (values["survives"], values["novel"], values["failure"]) == ("1", "1", "")
    failed = re.search(r'<tr[^>]*data-id="failed".*?</tr>', text, re.DOTALL)[0]
    assert "nan" not in failed.lower()
    assert "&lt;NA&gt;" not in failed


def test_the_blocks_hold_all_facts_and_structures(reader):
    assert reader.blocks["crystal-structures"] == structures()
    assert reader.blocks["bond-radii"]["O"] == pytest.approx(0.66)
    facts = reader.blocks["crystal-facts"]
    assert facts["crystals"][NASTY]["facts"][facts["names"].index("novel")] == f"no: the reference has it as {NASTY}"
    salt_facts = dict(zip(facts["names"], facts["crystals"]["salt"]["facts"], strict=True))
    assert salt_facts["space group as given"] == "Fm-3m (225)"
    assert salt_facts["time to make [s]"] == "1.5"
    assert salt_facts["faithful"] == "yes"
    table = dict(zip(facts["rows"], facts["crystals"]["salt"]["table"], strict=True))
    assert facts["columns"] == POTENTIALS
    assert table["energy above the hull [eV/atom]"] == ["0.051", "0.042"]
    assert table["formation energy [eV/atom]"] == ["−1.449", "−1.458"]
    assert table["change of the volume [%]"] == ["−1.2", "−1.2"]
    assert table["shortest distance [Å]"] == ["2.34", "2.34"]
    failed = facts["crystals"]["failed"]
    assert all(value is None for line in failed["table"] for value in line)
    assert dict(zip(facts["names"], failed["facts"], strict=True))["failure"] == f"CHGNet: {NASTY}"


def test_a_table_from_a_file_gives_the_same_page(text):
    frame = pd.read_csv(io.StringIO(crystals().to_csv(index=False)))
    assert page.render(summary(), frame, structures()) == text


def test_without_a_reference_nothing_is_new():
    reader = Reader(page.render(summary(with_reference=False), crystals(), structures()))
    assert reader.wrong == []
    assert "S.S.U.N." not in reader.visible
    assert "novel only" not in reader.visible
    assert reader.visible.count("needs a reference") == 2


def test_no_crystals_and_no_structures():
    empty = Reader(page.render(summary(), crystals().iloc[:0], {}))
    assert empty.wrong == []
    assert "There are no crystals." in empty.visible
    assert Reader(page.render(summary(), crystals(), {})).blocks["crystal-structures"] == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.bool_(True), True), (np.int64(3), 3), (np.float64(0.5), 0.5), (np.nan, None), (math.inf, None),
        (pd.NA, None), (pd.NaT, None), (None, None), ("", None), ("text", "text"), (False, False), (0.0, 0.0),
    ],
)  # fmt: skip
def test_plain_values(value, expected):
    found = page.plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_small_negative_numbers_have_no_sign():
    frame = crystals()
    frame.loc[2, ["energy_above_hull", "chgnet_energy_above_hull", "chgnet_volume_change"]] = [-4e-4, -4e-4, -4e-5]
    facts = Reader(page.render(summary(), frame, {})).blocks["crystal-facts"]
    table = dict(zip(facts["rows"], facts["crystals"]["salt"]["table"], strict=True))
    assert table["energy above the hull [eV/atom]"][0] == "0.000"
    assert table["change of the volume [%]"][0] == "+0.0"


def test_templates_report_what_is_missing():
    with pytest.raises(jinja2.TemplateNotFound):
        pages.render("judging/nothing.html")
    with pytest.raises(jinja2.TemplateNotFound):
        pages.render("nowhere/judged.html")
    with pytest.raises(jinja2.UndefinedError):
        pages.render("judging/judged.html")
    with pytest.raises(ValueError):
        pages.json_block("numbers", [math.nan])


# What a reader does, in a browser.

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")

WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(`error: ${event.message}`));
addEventListener("unhandledrejection", (event) => problems.push(`rejected: ${event.reason}`));
addEventListener("securitypolicyviolation", (event) => problems.push(`blocked: ${event.blockedURI}`));
for (const kind of ["error", "warn"]) console[kind] = (...words) => problems.push(`${kind}: ${words.join(" ")}`);
</script>"""

TOOLS = """
const $ = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const rowOf = (id) => all(".crystals tbody tr").find((row) => row.dataset.id === id);
const shownRows = () => all(".crystals tbody tr").filter((row) => !row.hidden).map((row) => row.dataset.id);
const pair = (name) => [name.textContent, name.nextSibling.textContent];
const facts = () => Object.fromEntries(all(".facts dt").map(pair));
const kindButton = (kind) => all("button[data-kind]").find((button) => button.dataset.kind === kind);
// Colours of the picture: the number of pixels that are not background, and all of them as one number.
const picture = () => {
  const canvas = $(".view canvas");
  if (!canvas) return null;
  const copy = Object.assign(document.createElement("canvas"), { width: 200, height: 200 });
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0, 200, 200);
  const { data } = context.getImageData(0, 0, 200, 200);
  let drawn = 0, sum = 0;
  for (let at = 0; at < data.length; at += 4) {
    drawn += [0, 1, 2].some((channel) => data[at + channel] !== data[channel]);
    sum = (sum * 31 + data[at] + 7 * data[at + 1] + 13 * data[at + 2]) % 1000003;
  }
  return { drawn: drawn / 40000, sum };
};
const state = () => ({
  title: $(".title h3").textContent, note: $(".title .note").textContent, legend: $(".legend").textContent,
  cell: $(".cell").textContent, message: $(".message").textContent, hash: location.hash,
  kind: all("button[data-kind][aria-pressed=true]").map((button) => button.dataset.kind),
  disabled: all("button[data-kind]:disabled").map((button) => button.dataset.kind),
  picture: picture(), facts: facts(),
});
"""


def browse(tmp_path, text, script, address="", options=()):
    """What a script returns that runs in the page after its own scripts; the page may have no problem."""
    ending = f"""<script>
addEventListener("load", async () => {{
  let result;
  try {{
    {TOOLS}
    result = await (async () => {{ {script} }})();
  }} catch (error) {{ problems.push(String(error.stack)); }}
  const out = document.createElement("pre");
  out.id = "result-of-test";
  out.textContent = JSON.stringify({{ result, problems }});
  document.body.replaceChildren(out);
}});
</script></body>"""
    head, tail = text.replace("<head>", f"<head>{WATCH}", 1).rsplit("</body>", 1)
    path = tmp_path / "page.html"
    path.write_text(head + ending + tail, encoding="utf-8")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=700,700", "--virtual-time-budget=10000", *options,
        "--dump-dom", f"{path.as_uri()}{address}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="result-of-test">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    content = json.loads(html.unescape(found[1]))
    assert content["problems"] == []
    return content["result"]


@needs_browser
def test_a_reader_turns_to_a_crystal(tmp_path, text):
    states = browse(
        tmp_path,
        text,
        """
        const states = { first: state() };
        rowOf("high").click(); states.clicked = state();
        rowOf("salt").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
        states.entered = state();
        kindButton("SevenNet:7net-0").click(); states.relaxed = state();
        $("[data-size='2']").click(); states.larger = state();
        rowOf("failed").click(); states.failed = state();
        rowOf("salt").click(); states.again = state();
        states.current = all("[aria-current]").map((row) => row.dataset.id);
        return states;
        """,
    )
    first = states["first"]
    # The first crystal that survives, not the first of the table.
    assert (first["title"], first["note"]) == ("Na4Cl4", "Fm-3m (225), salt")
    assert first["kind"] == ["as given"]
    assert first["cell"] == "a b c 5.64 5.64 5.64 Å; α β γ 90.0 90.0 90.0°"
    assert first["legend"] == "NaCl"
    assert first["facts"]["highest energy above the hull [eV/atom]"] == "0.051"
    assert 0.02 < first["picture"]["drawn"] < 0.9
    assert first["hash"] == ""
    clicked = states["clicked"]
    assert (clicked["title"], clicked["hash"], clicked["disabled"]) == ("MgO", "#crystal=high", POTENTIALS)
    assert clicked["picture"]["sum"] != first["picture"]["sum"]
    assert states["entered"]["title"] == "Na4Cl4"
    assert states["entered"]["picture"] == first["picture"]
    assert states["relaxed"]["kind"] == ["SevenNet:7net-0"]
    assert states["relaxed"]["cell"].startswith("a b c 5.80")
    assert states["larger"]["picture"]["sum"] != states["relaxed"]["picture"]["sum"]
    failed = states["failed"]
    assert failed["message"] == "There is no structure of this crystal."
    assert failed["picture"]["drawn"] == 0
    assert failed["facts"]["failure"] == f"CHGNet: {NASTY}"
    assert "doubts" not in failed["facts"]
    assert states["again"]["message"] == ""
    assert states["again"]["picture"]["drawn"] > 0.02
    assert states["current"] == ["salt"]


@needs_browser
def test_a_reader_filters_sorts_and_saves(tmp_path, text):
    found = browse(
        tmp_path,
        text,
        """
        const found = { hash: state() };
        const form = $(".filters");
        const filtered = (words, ...marks) => {
          form.elements.text.value = words;
          all("[name=mark]").forEach((box) => { box.checked = marks.includes(box.value); });
          form.dispatchEvent(new Event("input"));
          return shownRows();
        };
        found.filters = [
          filtered(""), filtered("O"), filtered("NaCl"), filtered("225"), filtered("fm-3M"), filtered("Na4Cl4"),
          filtered("MgO"), filtered("O 136"), filtered("Xe"),
          filtered("", "survives"), filtered("", "novel"), filtered("", "faithful"),
          filtered("O", "survives"), filtered("<b>"),
        ];
        found.count = $(".filters output").textContent;
        filtered("");
        const heads = all(".crystals thead button");
        const sorted = (name) => { heads.find((head) => head.textContent === name).click(); return shownRows(); };
        found.sorted = [sorted("above hull [eV/atom]"), sorted("above hull [eV/atom]"), sorted("formula")];
        found.stops = all(".crystals tbody tr").filter((row) => row.tabIndex === 0).length;
        found.width = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        let blob = null;
        const make = URL.createObjectURL;
        URL.createObjectURL = (content) => { blob = content; return make.call(URL, content); };
        HTMLAnchorElement.prototype.click = function () { found.saved = [this.download, this.protocol]; };
        $(".save").click();
        found.text = await blob.text();
        $(".reset").click();
        location.hash = "#crystal=high";
        await new Promise((ready) => setTimeout(ready, 100));
        found.changed = state().title;
        found.cells = Object.fromEntries(Object.entries(JSON.parse($("#crystal-structures").textContent)).map(
          ([id, own]) => [id, Object.values(own).map((text) => Structures.readCif(text).atoms.length)]));
        return found;
        """,
        address="#crystal=%3C%2Fscript%3E%3Cb%3E%22x'%26",
    )
    assert found["hash"]["note"] == f"P4_2/mnm (136), {NASTY}"
    assert found["hash"]["title"] == "Ti2O4"
    all_of_them = ["high", "failed", "salt", NASTY]
    assert found["filters"] == [
        all_of_them, ["high", NASTY], ["salt"], ["failed", "salt"], ["failed", "salt"], ["salt"], ["high"], [NASTY], [],
        ["salt", NASTY], ["salt"], ["salt"], [NASTY], [NASTY],
    ]  # fmt: skip
    assert found["count"] == "1 of 4 crystals"
    assert found["sorted"] == [
        [NASTY, "salt", "high", "failed"], ["high", "salt", NASTY, "failed"], ["failed", "high", "salt", NASTY],
    ]  # fmt: skip
    assert found["stops"] == 1
    assert found["width"] == 0
    assert found["saved"] == ["_script_b_x_-as_given.cif", "blob:"]
    assert found["text"] == structures()[NASTY]["as given"]
    assert found["changed"] == "MgO"
    assert found["cells"] == {"high": [2], "salt": [8, 8, 8], NASTY: [6, 6]}


@needs_browser
def test_without_webgl_a_message_is_shown(tmp_path, text):
    found = browse(
        tmp_path,
        text,
        """
        const found = state();
        kindButton("CHGNet").click(); $("[data-size='2']").click(); $(".reset").click();
        rowOf("failed").click(); rowOf("salt").click();
        return { ...found, cells: $(".cell").textContent, saves: !$(".save").disabled };
        """,
        options=["--disable-3d-apis"],
    )
    assert "no WebGL" in found["message"]
    assert found["title"] == "Na4Cl4"
    assert found["legend"] == "NaCl"
    assert found["cells"].startswith("a b c 5.70")
    assert found["saves"]
    assert found["facts"]["survives at 0.1 eV/atom"] == "yes"


@needs_browser
def test_the_page_fits_a_telephone(tmp_path, text):
    """No part of the page is wider than 400 pixels; wide tables scroll by themselves."""
    holder = "<!DOCTYPE html><html><head></head><body></body></html>"
    inner = tmp_path / "inner.html"
    inner.write_text(text, encoding="utf-8")
    found = browse(
        tmp_path,
        holder,
        f"""
        const frame = document.createElement("iframe");
        Object.assign(frame, {{ src: "{inner.as_uri()}", width: 400, height: 800 }});
        document.body.append(frame);
        await new Promise((ready) => frame.addEventListener("load", ready));
        await new Promise((ready) => setTimeout(ready, 300));
        const root = frame.contentDocument.documentElement;
        return [root.scrollWidth, root.clientWidth, frame.contentDocument.querySelector(".view").clientWidth];
        """,
        options=["--allow-file-access-from-files", "--hide-scrollbars"],
    )
    assert found[0] == found[1] == 400
    assert 250 < found[2] < 400


@needs_browser
def test_the_viewer_reads_structures_as_pymatgen_does(tmp_path, text):
    odd = """data_odd
_cell_length_a 4.00(2)
_cell_length_b 5
_cell_length_c "6.0"
_cell_angle_alpha 90
_cell_angle_beta 100.5
_cell_angle_gamma 90
loop_
_space_group_symop_operation_xyz
'x, y, z' # the identity
-x,y+1/2,-z+0.5
_publ_text
;
loop_ _atom_site_label in a text
;
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Fe1 0.1 -0.2 1.3
O2- 0 0 0.25
data_second
_cell_length_a 9
"""
    made = {"salt": salt(), "rutile": rutile(), "quartz": quartz()}
    made["quartz as P1"] = quartz()
    texts = {name: cif(structure, None if "P1" in name else 0.01) for name, structure in made.items()}
    fe = [[0.1, 0.8, 0.3], [0.9, 0.3, 0.2]]
    made["odd"] = Structure(
        Lattice.from_parameters(4, 5, 6, 90, 100.5, 90), ["Fe", "Fe", "O", "O"], [*fe, [0, 0, 0.25], [0, 0.5, 0.25]]
    )
    texts["odd"] = odd
    found = browse(
        tmp_path,
        text,
        f"""
        const texts = {json.dumps(texts)};
        const radii = JSON.parse($("#bond-radii").textContent);
        const read = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, Structures.readCif(text)]));
        const drawn = (name, size) => Structures.drawnAtoms(read[name], size);
        let refused = 0;
        for (const text of ["", "data_x", "data_x\\n_cell_length_a 3"]) {{
          try {{ Structures.readCif(text); }} catch {{ refused += 1; }}
        }}
        return {{
          read, refused, atoms: [drawn("salt", 1).length, drawn("salt", 2).length, drawn("rutile", 1).length],
          bonds: ["salt", "rutile"].map((name) => Structures.bonds(drawn(name, 1), radii).length),
        }};
        """,
    )
    for name, structure in made.items():
        own = found["read"][name]
        assert own["lengths"] == pytest.approx(structure.lattice.abc, abs=1e-4)
        assert own["angles"] == pytest.approx(structure.lattice.angles, abs=1e-4)
        lattice = Lattice(own["vectors"])
        assert lattice.parameters == pytest.approx(structure.lattice.parameters, abs=1e-4)
        again = Structure(lattice, [a["element"] for a in own["atoms"]], [a["point"] for a in own["atoms"]])
        assert again.composition == structure.composition, name
        # Every atom lies on an atom of the same element.
        distances = structure.lattice.get_all_distances(again.frac_coords, structure.frac_coords)
        same = np.array([[a.specie == b.specie for b in structure] for a in again])
        assert np.where(same, distances, np.inf).min(axis=0) == pytest.approx(0, abs=0.02), name
        assert np.where(same, distances, np.inf).min(axis=1) == pytest.approx(0, abs=0.02), name
    assert found["refused"] == 3
    # Rock salt: a grid of 3 × 3 × 3 atoms with 54 edges; 5 × 5 × 5 atoms for 8 cells.
    # Rutile: 9 Ti; of the 4 O, those with z = 0 are drawn twice. The Ti in the middle has 6 bonds; each of the O at
    # z = 0 and 1 has one more, to a corner, and each of those at z = 1/2 has two.
    assert found["atoms"] == [27, 125, 15]
    assert found["bonds"] == [54, 6 + 4 + 4]
