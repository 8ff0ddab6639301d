"use strict";
// Draws the page from the JSON in #data. Texts of the dataset only ever become text nodes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });
  const grouped = new Intl.NumberFormat("en");
  const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
  const told = (value, unit) => short.format(value) + (unit ? " " + unit : "");

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // ---- figures and distributions

  for (const [name, figure] of data.headline) {
    byId("headline").append(element("div", {}, element("dt", {}, name), element("dd", {}, figure)));
  }
  byId("notes").hidden = !data.notes.length;
  byId("notes").append(...data.notes.map((note) => element("li", {}, note)));

  function bar(share, title) {
    const inner = element("span", { className: "bar" });
    inner.style.width = 100 * share + "%";
    return element("span", { className: "track", title: title || "" }, inner);
  }

  function listOfBars({ label, bars }) {
    const most = Math.max(...bars.map((one) => one[1]));
    const rows = bars.map(([name, count]) =>
      element("li", {},
        element("span", { className: "name", title: name }, name), bar(count / most),
        element("span", { className: "number" }, grouped.format(count)),
        element("span", { className: "number faint" }, percent.format(count / data.samples))));
    return element("figure", { className: "bars" }, element("figcaption", {}, label), element("ul", {}, ...rows));
  }

  function interval(one, place) {
    const [from, to] = [one.edges[place], one.edges[place + 1]];
    const closed = place === one.counts.length - 1 && !one.above;
    const last = one.whole && !closed ? to - 1 : to;
    return last === from ? told(from, one.unit) : `${short.format(from)} to ${told(last, one.unit)}`;
  }

  function histogram(one) {
    const { counts, below, above, edges, unit } = one;
    const all = [
      ...(below ? [[`${short.format(one.minimum)} to below ${told(edges[0], unit)}`, below, "outside"]] : []),
      ...counts.map((count, place) => [interval(one, place), count, "inside"]),
      ...(above ? [[`${short.format(edges[edges.length - 1])} to ${told(one.maximum, unit)}`, above, "outside"]] : []),
    ];
    const most = Math.max(...all.map((entry) => entry[1]));
    const columns = all.map(([title, count, kind]) => {
      const column = element("span", { className: "column " + kind, title: `${title}: ${grouped.format(count)}` });
      // Never invisible where there is something.
      column.style.height = count ? `max(2px, ${(100 * count) / most}%)` : "0";
      return element("span", { className: "slot", title: column.title }, column);
    });
    const facts = `median ${short.format(one.median)}, mean ${short.format(one.mean)}, ` +
      `${short.format(one.minimum)} to ${told(one.maximum, unit)}` +
      (one.missing ? `; ${grouped.format(one.missing)} without` : "");
    return element("figure", { className: "histogram" },
      element("figcaption", {}, one.label),
      element("div", { className: "columns", role: "img", ariaLabel: `${one.label}: ${facts}` }, ...columns),
      element("div", { className: "axis" },
        element("span", {}, short.format(one.minimum)),
        element("span", {}, told(one.maximum, unit))),
      element("p", { className: "faint" }, facts));
  }

  byId("distributions").append(...data.histograms.map(histogram), ...data.bars.map(listOfBars));

  // ---- what a run would use

  function planTable(buckets, bucketed) {
    const most = Math.max(1, ...buckets.map((one) => one.samples));
    const numbers = [["samples", "samples"], ...(bucketed ? [["batch", "batch"], ["batches", "batches"], ["left over", "left"]] : [])];
    const number = (name, text) => element(name, { className: "number" }, text);
    const rows = buckets.map((one) => element("tr", {},
      element("th", { scope: "row" }, one.name),
      ...numbers.map(([, name]) => number("td", grouped.format(one[name]))),
      element("td", {}, one.size),
      element("td", { className: "drawn" }, bar(one.samples / most))));
    return element("table", {},
      element("thead", {}, element("tr", {},
        element("th", { scope: "col" }, "bucket"),
        ...numbers.map(([title]) => number("th", title)),
        element("th", { scope: "col" }, "frames x height x width"), element("td", {}))),
      element("tbody", {}, ...rows));
  }

  if (data.plan) {
    const { bucketed, buckets, samples, used, batches, warnings } = data.plan;
    byId("plan").hidden = false;
    byId("plan-title").textContent = bucketed ? "Buckets" : "Size of the run";
    const part = `${grouped.format(used)} of ${grouped.format(samples)} samples of an epoch are used ` +
      `(${percent.format(samples ? used / samples : 0)})`;
    byId("plan-summary").textContent = part + (bucketed ? `, in ${grouped.format(batches)} global batches.` : ".");
    const filled = buckets.filter((one) => one.samples);
    const empty = buckets.filter((one) => !one.samples);
    if (filled.length) byId("plan-table").append(planTable(filled, bucketed));
    if (empty.length) {
      byId("plan-empty").append(element("details", {},
        element("summary", {}, `${empty.length} buckets without any sample`),
        element("p", {}, empty.map((one) => one.name).join(", "))));
    }
    byId("plan-warnings").append(...warnings.map((text) => element("li", {}, text)));
  }

  // ---- filters: the fragment holds them, so that a link shows the same clips

  const STATES = { decoded: (card) => !card.problem, unreadable: (card) => card.problem };
  const choices = ["bucket", "codec", "folder"].map((name) => [name, [...new Set(data.cards.map((c) => c[name]))].sort()])
    .concat([["state", Object.keys(STATES)]])
    .filter(([name, values]) => (name === "state" ? data.cards.some((c) => c.problem) : values.length > 1));
  const orders = ["row", "key", "caption", "shard", "folder", "codec", ...(data.plan ? ["bucket"] : [])];
  const sortable = [...orders, ...data.columns.map((column) => column.name)];
  const ranges = data.columns
    .map((column, place) => {
      const values = data.cards.map((card) => card.values[place]).filter((value) => value !== null);
      return { ...column, place, values: [...new Set(values)].sort((a, b) => a - b) };
    })
    .filter((range) => range.values.length > 1);

  function choice(id, label, options) {
    const items = options.map(([value, text]) => element("option", { value }, text));
    return element("label", {}, label + " ", element("select", { id }, ...items));
  }

  const titles = Object.fromEntries(data.columns.map((column) => [column.name, column.label]));
  byId("choices").append(
    ...choices.map(([name, values]) => choice(name, name, [["", "all"], ...values.map((value) => [value, value])])),
    choice("sort", "sorted by", sortable.map((name) => [name, titles[name] || name])),
    choice("order", "order", [["asc", "rising"], ["desc", "falling"]]));

  for (const range of ranges) {
    // The places of a slider are the values there are, so that a few extreme ones do not take all of its length.
    const slider = (end) => element("input", {
      type: "range", min: 0, max: range.values.length - 1, step: 1, id: `${end}_${range.name}`,
      ariaLabel: `${end === "min" ? "least" : "largest"} ${range.label}`,
    });
    range.low = slider("min");
    range.high = slider("max");
    range.output = element("output", {});
    byId("ranges").append(element("fieldset", {},
      element("legend", {}, range.label), range.output,
      element("div", { className: "sliders" }, range.low, range.high)));
  }

  let limits = {}; // min_frames -> 17: exact, while sliders only know the values of sampled clips
  const simple = ["q", "sort", "order", ...choices.map(([name]) => name)];

  function readFragment() {
    const given = new URLSearchParams(location.hash.slice(1));
    const unknown = [];
    for (const name of simple) byId(name).value = given.get(name) ?? { sort: "row", order: "asc" }[name] ?? "";
    limits = {};
    for (const [name, text] of given) {
      const column = /^(min|max)_(.+)$/.exec(name);
      if (column && titles[column[2]] && text !== "" && Number.isFinite(Number(text))) limits[name] = Number(text);
      else if (!simple.includes(name) || byId(name).selectedIndex === -1) {
        if (location.hash !== "#clips") unknown.push(text ? `${name}=${text}` : name);
      }
    }
    for (const name of simple) if (byId(name).selectedIndex === -1) byId(name).selectedIndex = 0;
    byId("unknown").textContent = unknown.length ? `The link asks for what there is not here: ${unknown.join(", ")}` : "";
    for (const range of ranges) {
      const [least, largest] = [limits["min_" + range.name], limits["max_" + range.name]];
      const last = range.values.length - 1;
      const from = range.values.findIndex((value) => value >= (least ?? -Infinity));
      range.low.value = from < 0 ? last : from;
      range.high.value = Math.max(0, range.values.findLastIndex((value) => value <= (largest ?? Infinity)));
    }
  }

  function writeFragment() {
    const state = new URLSearchParams();
    for (const name of simple) {
      const value = byId(name).value;
      if (value && !(name === "sort" && value === "row") && !(name === "order" && value === "asc")) state.set(name, value);
    }
    for (const [name, value] of Object.entries(limits)) state.set(name, value);
    history.replaceState(null, "", "#" + state);
  }

  // ---- cards

  const LONG = 260; // characters of a caption that are shown without asking

  function caption(text) {
    if (text.length <= LONG) return element("p", { className: "caption" }, text);
    const shown = element("span", {}, text.slice(0, LONG) + "… ");
    const button = element("button", { type: "button", className: "more", ariaExpanded: "false" }, "more");
    button.addEventListener("click", () => {
      const opened = button.ariaExpanded === "false";
      button.ariaExpanded = String(opened);
      button.textContent = opened ? "less" : "more";
      shown.textContent = opened ? text + " " : text.slice(0, LONG) + "… ";
    });
    return element("p", { className: "caption" }, shown, button);
  }

  const TOLD = ["width", "height", "frames", "fps", "duration", "aspect_ratio", "caption_characters"];
  const placeOf = Object.fromEntries(data.columns.map((column, place) => [column.name, place]));

  function drawn(card) {
    const [width, height, frames, fps, duration] = TOLD.map((name) => card.values[placeOf[name]]);
    const images = card.thumbnails.map((uri, place) => element("img", {
      src: uri, loading: "lazy", decoding: "async",
      alt: card.thumbnails.length === 1 ? "the picture" : `${["first", "middle", "last"][card.thumbnails.length === 3 ? place : 2 * place]} frame`,
    }));
    const size = `${width} x ${height}` +
      (frames > 1 ? `, ${frames} frames, ${short.format(fps)} fps, ${short.format(duration)} s` : "");
    const facts = [["size", size], ["shard", card.shard], ["codec", card.codec]];
    if (data.bars[2].bars.length > 1) facts.push(["folder", card.folder]);
    if (card.bucket) facts.push(["bucket", card.bucket]);
    const scores = data.columns.map((column, place) => [column.label, card.values[place]])
      .filter(([, value], place) => !TOLD.includes(data.columns[place].name) && value !== null)
      .map(([label, value]) => [label, short.format(value)]);
    return element("article", { className: "card" },
      element("h3", {}, card.key),
      images.length ? element("div", { className: "frames" }, ...images) : "",
      card.problem ? element("p", { className: "problem" }, card.problem) : "",
      caption(card.caption),
      element("dl", {}, ...[...facts, ...scores].map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
  }

  const clips = data.cards.map((card) => ({
    card, node: drawn(card), text: (card.key + "\n" + card.caption).toLocaleLowerCase(),
  }));

  function accepted({ card, text }) {
    const words = byId("q").value.toLocaleLowerCase().split(/\s+/);
    if (!words.every((word) => text.includes(word))) return false;
    for (const [name] of choices) {
      const wanted = byId(name).value;
      if (wanted && !(name === "state" ? STATES[wanted](card) : card[name] === wanted)) return false;
    }
    return Object.entries(limits).every(([name, limit]) => {
      const value = card.values[placeOf[name.slice(4)]];
      return value !== null && (name.startsWith("min_") ? value >= limit : value <= limit);
    });
  }

  function sorted() {
    const name = byId("sort").value;
    const value = name in placeOf ? (clip) => clip.card.values[placeOf[name]] : (clip) => clip.card[name];
    const sign = byId("order").value === "desc" ? -1 : 1;
    return [...clips].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === b) return one.card.row - other.card.row;
      if (a === null || b === null) return a === null ? 1 : -1; // without a value: last, either way
      return sign * (a < b ? -1 : 1);
    });
  }

  function show() {
    let count = 0;
    for (const clip of clips) {
      clip.node.hidden = !accepted(clip);
      count += clip.node.hidden ? 0 : 1;
    }
    byId("cards").append(...sorted().map((clip) => clip.node));
    for (const range of ranges) {
      const { values, unit, name } = range;
      const from = limits["min_" + name] ?? values[0];
      const to = limits["max_" + name] ?? values[values.length - 1];
      range.output.textContent = `${short.format(from)} to ${told(to, unit)}`;
      range.low.setAttribute("aria-valuetext", told(from, unit));
      range.high.setAttribute("aria-valuetext", told(to, unit));
      range.output.parentNode.classList.toggle("used", "min_" + name in limits || "max_" + name in limits);
    }
    byId("count").textContent = `${grouped.format(count)} of ${grouped.format(clips.length)} sampled clips shown`;
  }

  byId("filters").addEventListener("input", (event) => {
    const range = ranges.find((one) => one.low === event.target || one.high === event.target);
    if (range) {
      const [low, high] = [range.low, range.high];
      // The two never cross: the one that moves stops at the other.
      if (event.target === low) low.value = Math.min(Number(low.value), Number(high.value));
      else high.value = Math.max(Number(low.value), Number(high.value));
      const [end, place, open] = event.target === low
        ? ["min_", Number(low.value), 0] : ["max_", Number(high.value), range.values.length - 1];
      if (place === open) delete limits[end + range.name];
      else limits[end + range.name] = range.values[place];
    }
    writeFragment();
    show();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    history.replaceState(null, "", "#");
    readFragment();
    show();
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment belongs to the filters
    byId("clips").focus();
    byId("clips").scrollIntoView();
  });
  window.addEventListener("hashchange", () => { readFragment(); show(); });
  byId("ranges-box").open = window.matchMedia("(min-width: 900px)").matches;
  readFragment();
  show();
  if (location.hash.length > 1) byId("clips").scrollIntoView(); // a link to some clips shows them
})();
