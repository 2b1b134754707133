// The table of samples: search, filters, sorting, pages. Users' text only ever goes to textContent.
(() => {
  "use strict";
  const PAGE = 25;
  const LONG = new Set(["prompt", "response"]);
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  // The numbers of a column with as many decimals; each on its own where that would hide small ones.
  const writer = (values) => {
    const sizes = values.filter((v) => typeof v === "number" && !Number.isInteger(v)).map(Math.abs);
    const most = sizes.reduce((a, b) => Math.max(a, b), 0);
    const least = sizes.reduce((a, b) => Math.min(a, b), Infinity);
    const whole = sizes.length === 0;
    let places = Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(most || 1))));
    while (places > 0 && sizes.every((size) => size.toFixed(places).endsWith("0"))) places -= 1;
    const alike = least * 100 >= 10 ** -places && most < 1e6;
    return (value) => {
      if (value === null) return "-";
      if (typeof value !== "number" || whole) return String(value);
      return alike ? value.toFixed(places) : String(Number(value.toPrecision(4)));
    };
  };

  for (const source of document.querySelectorAll("script.samples")) {
    explore(source.previousElementSibling, JSON.parse(source.textContent));
  }

  function explore(box, { columns, rows, marks, n }) {
    const search = box.querySelector("input");
    const selects = [...box.querySelectorAll("select")];
    const count = box.querySelector(".count");
    const heads = [...box.querySelectorAll("th")].slice(0, columns.length);
    const body = box.querySelector("tbody");
    const [back, forth] = box.querySelectorAll(".pager button");
    const where = box.querySelector(".pager span");
    const numeric = columns.map((_, at) => rows.every((row) => row[at] === null || typeof row[at] === "number"));
    const shown = columns.map((_, at) => writer(rows.map((row) => row[at])));
    const marked = Object.fromEntries(Object.entries(marks).map(([name, places]) => [name, new Set(places)]));
    const haystacks = new Array(rows.length);
    let order = rows.map((_, place) => place);
    let found = order;
    let page = 0;
    let sorted = columns.indexOf("rank");
    let upwards = true;

    for (const select of selects) {
      const at = select.dataset.filter;
      const names = at === "marks" ? Object.keys(marks) : [...new Set(rows.map((row) => row[at]))].filter((v) => v !== null).sort();
      for (const name of names) {
        const size = at === "marks" ? marks[name].length : rows.reduce((sum, row) => sum + (row[at] === name), 0);
        const option = element("option", `${name} (${size.toLocaleString("en")})`);
        option.value = name;
        select.append(option);
      }
      if (names.length < 2 && at !== "marks") select.parentElement.hidden = true;
      select.addEventListener("change", filter);
    }
    search.addEventListener("input", filter);
    heads.forEach((head, at) => head.classList.toggle("number", numeric[at]));
    heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => sortBy(at)));
    back.addEventListener("click", () => turn(-1));
    forth.addEventListener("click", () => turn(1));
    box.hidden = false;
    draw();

    function haystack(place) {
      haystacks[place] ??= rows[place].map((value) => (value === null ? "" : String(value))).join("\n").toLowerCase();
      return haystacks[place];
    }

    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = selects.filter((select) => select.value !== "").map((select) => [select.dataset.filter, select.value]);
      found = order.filter((place) =>
        wanted.every(([at, value]) => (at === "marks" ? marked[value].has(place) : rows[place][at] === value)) &&
        words.every((word) => haystack(place).includes(word)));
      page = 0;
      draw();
    }

    function sortBy(at) {
      // Numbers whose large values matter come first by falling order, ranks and names by rising.
      upwards = sorted === at ? !upwards : !numeric[at] || columns[at] === "rank";
      sorted = at;
      const way = upwards ? 1 : -1;
      const text = new Intl.Collator("en", { numeric: true });
      order.sort((a, b) => {
        const [x, y] = [rows[a][at], rows[b][at]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return way * (numeric[at] ? x - y : text.compare(String(x), String(y))) || a - b;
      });
      filter();
    }

    function turn(step) {
      page += step;
      draw();
      box.scrollIntoView({ block: "nearest" });
    }

    function draw() {
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(line));
      heads.forEach((head, at) => {
        if (at === sorted) head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      count.textContent = `${found.length.toLocaleString("en")} of ${n.toLocaleString("en")} samples`;
      where.textContent = `page ${page + 1} of ${pages.toLocaleString("en")}`;
      back.disabled = page === 0;
      forth.disabled = page + 1 >= pages;
    }

    function line(place) {
      const row = element("tr");
      columns.forEach((column, at) => {
        const cell = element("td", undefined, numeric[at] ? "number" : LONG.has(column) ? column : "name");
        cell.dataset.column = column;
        cell.dir = "auto";
        // A screenful is enough here; the whole text is one click away.
        if (LONG.has(column)) cell.append(element("div", shown[at](rows[place][at]).slice(0, 400), "brief"));
        else cell.textContent = shown[at](rows[place][at]);
        row.append(cell);
      });
      const open = element("button", undefined, "open");
      open.type = "button";
      open.setAttribute("aria-expanded", "false");
      open.setAttribute("aria-label", `whole text of the sample on this row`);
      const last = element("td");
      last.append(open);
      row.append(last);
      row.addEventListener("click", () => {
        if (getSelection().isCollapsed) unfold(row, open, place);
      });
      return row;
    }

    function unfold(row, open, place) {
      const isOpen = open.getAttribute("aria-expanded") === "true";
      open.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) return row.nextElementSibling.remove();
      const list = element("dl");
      const names = Object.keys(marks).filter((name) => marked[name].has(place));
      if (names.length) {
        const tags = element("dd");
        tags.append(...names.map((name) => element("span", name, "tag")));
        list.append(element("dt", "among the"), tags);
      }
      const turns = rows[place][columns.length] ?? [];
      columns.forEach((column, at) => {
        if (turns.length && LONG.has(column)) return;
        const isText = typeof rows[place][at] === "string";
        if (!isText) return;
        const text = element("dd", rows[place][at]);
        text.dir = "auto";
        list.append(element("dt", column), text);
      });
      for (const [who, said] of turns) {
        const text = element("dd", said);
        text.dir = "auto";
        if (/^(system|developer)/.test(who)) {
          // The same in many conversations: shown when asked for.
          const folded = element("details");
          folded.append(element("summary", `${said.length.toLocaleString("en")} characters`), text);
          const place = element("dd");
          place.append(folded);
          list.append(element("dt", who), place);
        } else list.append(element("dt", who), text);
      }
      const cell = element("td");
      cell.colSpan = columns.length + 1;
      cell.append(list);
      const whole = element("tr", undefined, "whole");
      whole.append(cell);
      row.after(whole);
    }
  }
})();
