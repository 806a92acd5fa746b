// The timeline: requests, latency, losses and upgrades on one clock, as SVG.

const LANE_ROW = 15;
const MOST_ROWS = 14;
/** With more upgrades in view, they are not focusable, and have no bands: the table leads to each. */
const MOST_BARS = 300;
/** The shortest stretch of time that can be shown, in milliseconds. */
const SHORTEST = 2;

function svg(name, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== undefined) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Distances of ticks: 1, 2 or 5 times a power of ten. */
function niceStep(range, ticks) {
  const power = 10 ** Math.floor(Math.log10(range / ticks));
  return power * [1, 2, 5, 10].find(factor => factor * power * ticks >= range * 0.999);
}

/** The whole clock: from the first request or step to the last one. */
function wholeView() {
  const busy = report.timeline.filter(bucket => bucket.requests > 0);
  const starts = [], ends = [];
  if (busy.length) {
    starts.push(busy[0].at_ms);
    ends.push(busy[busy.length - 1].at_ms + busy[busy.length - 1].width_ms);
  }
  if (report.upgrades.length) {
    starts.push(span(report.upgrades[0])[0]);
    ends.push(span(report.upgrades[report.upgrades.length - 1])[1]);
  }
  if (!starts.length) return [0, Math.max(report.duration_ms, SHORTEST)];
  const [from, to] = [Math.min(...starts), Math.max(...ends)];
  const margin = Math.max((to - from) * 0.01, 1);
  return [Math.max(0, from - margin), to + margin];
}

/** Buckets in view, joined so that each is at least 2 pixels wide. */
function columnsOf(view, width) {
  const buckets = report.timeline;
  let first = buckets.findIndex(bucket => bucket.at_ms + bucket.width_ms > view[0]);
  let last = buckets.length;
  while (last > 0 && buckets[last - 1].at_ms >= view[1]) last--;
  if (first < 0 || first >= last) return [];
  const each = Math.max(1, Math.ceil(2 * (last - first) / width));
  first -= first % each;
  const columns = [];
  for (let index = first; index < last; index += each) {
    const own = buckets.slice(index, Math.min(index + each, buckets.length));
    const column = { from: own[0].at_ms, to: own[own.length - 1].at_ms + own[own.length - 1].width_ms, requests: 0, lost: 0, max: 0, median: 0 };
    for (const bucket of own) {
      column.requests += bucket.requests;
      column.lost += bucket.lost;
      column.max = Math.max(column.max, bucket.max_ms);
    }
    // The median of medians, by their weight: the requests themselves are not in the report.
    const medians = own.filter(bucket => bucket.requests).sort((a, b) => a.p50_ms - b.p50_ms);
    let weight = 0;
    column.median = (medians.find(bucket => (weight += bucket.requests) * 2 >= column.requests) || { p50_ms: 0 }).p50_ms;
    column.rate = 1000 * column.requests / (column.to - column.from);
    columns.push(column);
  }
  return columns;
}

/** A line in steps over columns; without `value` there is a gap. */
function stepLine(columns, x, value) {
  let path = '', isOpen = false;
  for (const column of columns) {
    const y = value(column);
    if (y === null) {
      isOpen = false;
      continue;
    }
    path += `${isOpen ? 'L' : 'M'}${x(column.from).toFixed(1)} ${y.toFixed(1)}H${x(column.to).toFixed(1)}`;
    isOpen = true;
  }
  return path;
}

function secondsLabel(ms, step) {
  const digits = Math.max(0, Math.min(4, -Math.floor(Math.log10(step / 1000) + 1e-9)));
  return `${(ms / 1000).toFixed(digits)}`;
}

/** The step of an upgrade that had been reached at a time. */
function lastStep(upgrade, ms) {
  return upgrade.steps.filter(step => step.at_ms <= ms).pop();
}

function timeline() {
  const full = wholeView();
  let view = full, chosen = null, cursor = null, drag = null, columns = [], geometry = null, bars = [];

  const picture = svg('svg', { tabindex: 0, role: 'group', 'aria-label': 'Timeline: requests per second, latency, lost requests and upgrades. '
    + 'Arrow keys move the cursor, Enter shows the upgrade at the cursor, plus and minus zoom, N and P show the next and previous upgrade, Escape shows everything.' });
  const tip = el('div', { class: 'tip', role: 'status', hidden: true });
  const chart = el('div', { class: 'chart' }, picture, tip);
  const button = (text, label, onclick) => el('button', { type: 'button', 'aria-label': label, title: label, onclick }, text);
  const whole = button('Whole rehearsal', 'Show the whole rehearsal (Escape)', () => show(full, null));
  const previous = button('‹ Previous', 'Show the previous upgrade (P)', () => step(-1));
  const next = button('Next ›', 'Show the next upgrade (N)', () => step(1));
  const closer = button('+', 'Zoom in', () => zoom(0.5));
  const wider = button('−', 'Zoom out', () => zoom(2));
  const range = el('span', { class: 'muted small num' });
  const detail = el('div', { class: 'detail', hidden: true, 'aria-live': 'polite' });
  const element = el('section', { class: 'card', 'aria-label': 'Timeline' },
    el('div', { class: 'head' }, el('h2', {}, 'Timeline'), range, el('span', { class: 'end tools' }, previous, next, closer, wider, whole)), chart, legend(), detail);

  function legend() {
    const one = (kind, text) => el('span', {}, el('i', { class: kind }), text);
    return el('div', {}, el('div', { class: 'legend' }, one('green', 'until the new version is active'), one('after', 'until the old one is gone'),
      one('refused', 'bad version, refused as it should be'), one('red', 'failed, or a bad version accepted'), report.lost > 0 && el('span', {}, el('b', { class: 'red' }, '✕ '), 'lost request')),
    el('p', { class: 'muted small hint' }, 'Click an upgrade to see its steps; drag to zoom into a stretch of time. ',
      el('span', { class: 'keys' }, 'Keys: ← → cursor, Enter upgrade, N P next and previous, + − zoom, Esc everything.')));
  }

  function show(to, number) {
    const length = Math.min(Math.max(to[1] - to[0], SHORTEST), full[1] - full[0]);
    const middle = (to[0] + to[1]) / 2;
    const from = Math.min(Math.max(middle - length / 2, full[0]), full[1] - length);
    view = [from, from + length];
    chosen = number;
    if (cursor !== null && (cursor < view[0] || cursor > view[1])) cursor = null;
    tip.hidden = true;
    draw();
    describe();
  }

  function choose(number, isFar) {
    const upgrade = report.upgrades.find(one => one.number === number);
    if (!upgrade) return;
    const [from, to] = span(upgrade);
    const margin = Math.max((to - from) * 0.25, 20);
    show([from - margin, to + margin], number);
    if (isFar) element.scrollIntoView({ block: 'start' });
  }

  function step(by) {
    const all = report.upgrades;
    let index = all.findIndex(upgrade => upgrade.number === chosen);
    if (index < 0) index = by > 0 ? all.findIndex(upgrade => span(upgrade)[1] >= view[0]) - 1 : all.length;
    const upgrade = all[Math.min(Math.max(index + by, 0), all.length - 1)];
    if (upgrade) choose(upgrade.number);
  }

  function zoom(factor) {
    const length = (view[1] - view[0]) * factor;
    const middle = cursor === null ? (view[0] + view[1]) / 2 : cursor;
    const part = (middle - view[0]) / (view[1] - view[0]);
    const isWhole = length >= (full[1] - full[0]) * 0.999;
    show(isWhole ? full : [middle - length * part, middle + length * (1 - part)], isWhole ? null : chosen);
  }

  /** The upgrade at a time, or the nearest one within some pixels. */
  function upgradeAt(ms) {
    const near = 7 * (view[1] - view[0]) / (geometry.right - geometry.left);
    let best = null, least = near;
    for (const upgrade of bars) {
      const [from, to] = span(upgrade);
      const distance = Math.max(from - ms, ms - to, 0);
      if (distance <= least && (best === null || distance < least)) [best, least] = [upgrade, distance];
    }
    return best;
  }

  // ---- drawing ----

  function draw() {
    const width = Math.max(chart.clientWidth, 280);
    const isNarrow = width < 600;
    const left = isNarrow ? 50 : 58, right = width - 10;
    const x = ms => left + (right - left) * (ms - view[0]) / (view[1] - view[0]);
    columns = columnsOf(view, right - left);
    bars = report.upgrades.filter(upgrade => span(upgrade)[1] >= view[0] && span(upgrade)[0] <= view[1]);
    geometry = { left, right, x, width };
    const parts = [];
    let y = 4;
    const panels = { rate: [y + 18, y += isNarrow ? 96 : 136], latency: [(y += 12) + 18, y += isNarrow ? 126 : 176] };
    if (report.lost > 0) panels.lost = [(y += 12) + 18, y += 58];
    const lane = layLane((y += 10) + 18, isNarrow);
    const bottom = y = lane.bottom + 4;
    bands(parts, panels, bottom);
    ticks(parts, panels.rate[0], bottom, isNarrow);
    ratePanel(parts, ...panels.rate);
    latencyPanel(parts, ...panels.latency);
    if (panels.lost) lostPanel(parts, ...panels.lost);
    parts.push(...lane.parts);
    Object.assign(geometry, { top: panels.rate[0], bottom });
    const height = y + 22;
    picture.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const layer = svg('g', { class: 'live' });
    picture.replaceChildren(...parts, layer);
    geometry.layer = layer;
    whole.disabled = wider.disabled = view[0] <= full[0] && view[1] >= full[1];
    closer.disabled = view[1] - view[0] <= SHORTEST;
    previous.disabled = next.disabled = report.upgrades.length === 0;
    range.textContent = `${secondsLabel(view[0], (view[1] - view[0]) / 20)} to ${secondsLabel(view[1], (view[1] - view[0]) / 20)} s`;
    drawCursor();
  }

  function text(x, y, content, attributes) {
    return svg('text', { x: x.toFixed(1), y: y.toFixed(1), ...attributes }, content);
  }

  function ticks(parts, top, bottom, isNarrow) {
    const { left, right, x } = geometry;
    const step = niceStep(view[1] - view[0], isNarrow ? 4 : 10);
    let path = '';
    for (let ms = Math.ceil(view[0] / step) * step; ms <= view[1]; ms += step) {
      path += `M${Math.round(x(ms)) + 0.5} ${top}V${bottom}`;
      const isLast = x(ms) > right - 12;
      parts.push(text(x(ms), bottom + 15, `${secondsLabel(ms, step)} s`, { 'text-anchor': isLast ? 'end' : x(ms) < left + 12 ? 'start' : 'middle' }));
    }
    parts.unshift(svg('path', { class: 'grid', d: `${path}M${left} ${bottom + 0.5}H${right}`, 'stroke-opacity': 0.6 }));
  }

  function panelFrame(parts, title, top, bottom, levels, y, label) {
    const { left, right } = geometry;
    parts.push(text(left, top - 7, title, { class: 'title' }));
    const heading = parts[parts.length - 1];
    for (const level of levels) {
      parts.push(svg('path', { class: 'grid', d: `M${left} ${Math.round(y(level)) + 0.5}H${right}` }),
        text(left - 6, y(level) + 4, label(level), { 'text-anchor': 'end' }));
    }
    return heading;
  }

  function clip(parts, own, top, bottom) {
    // What begins before the view is cut at its edge.
    const { left, right } = geometry;
    parts.push(svg('svg', { x: left, y: top, width: right - left, height: bottom - top, viewBox: `${left} ${top} ${right - left} ${bottom - top}` }, ...own));
  }

  function ratePanel(parts, top, bottom) {
    const most = columns.reduce((most, column) => Math.max(most, column.rate), 0) || 1;
    const step = niceStep(most, 3);
    const highest = Math.ceil(most / step) * step;
    const y = rate => bottom - (bottom - top) * rate / highest;
    const levels = [];
    for (let level = 0; level <= highest * 1.001; level += step) levels.push(level);
    panelFrame(parts, 'Requests per second', top, bottom, levels, y, level => level >= 10000 ? `${count(level / 1000)}k` : count(+level.toPrecision(3)));
    if (!columns.length) return;
    const line = stepLine(columns, geometry.x, column => y(column.rate));
    const area = `${line}V${bottom}H${geometry.x(columns[0].from).toFixed(1)}Z`;
    clip(parts, [svg('path', { class: 'rate', d: area })], top - 1, bottom);
  }

  function latencyPanel(parts, top, bottom) {
    const busy = columns.filter(column => column.requests > 0);
    const least = busy.reduce((least, column) => Math.min(least, column.median || column.max || 1), Infinity);
    const most = busy.reduce((most, column) => Math.max(most, column.max), 0);
    const [low, high] = busy.length ? [10 ** Math.floor(Math.log10(Math.max(least, 0.01))), 10 ** Math.ceil(Math.log10(Math.max(most, 0.1)))] : [1, 100];
    const decades = Math.max(1, Math.round(Math.log10(high / low)));
    const y = ms => bottom - (bottom - top) * Math.min(1, Math.max(0, Math.log10(Math.max(ms, low) / low) / decades));
    const levels = Array.from({ length: decades + 1 }, (_, index) => low * 10 ** index);
    const heading = panelFrame(parts, 'Latency', top, bottom, levels, y, ms => ms < 1000 ? `${+ms.toPrecision(1)} ms` : `${ms / 1000} s`);
    heading.append(svg('tspan', { class: 'key-median', dx: 12 }, 'median'), svg('tspan', { class: 'key-longest', dx: 10 }, 'longest'));
    if (report.lost > 0) heading.append(svg('tspan', { class: 'bad', dx: 10 }, '✕ lost'));
    const { x } = geometry;
    const longest = stepLine(busy.length ? columns : [], x, column => column.requests ? y(column.max) : null);
    const median = stepLine(busy.length ? columns : [], x, column => column.requests ? y(column.median) : null);
    let spread = '';
    for (const column of busy) spread += `M${x(column.from).toFixed(1)} ${y(column.max).toFixed(1)}H${x(column.to).toFixed(1)}V${y(column.median).toFixed(1)}H${x(column.from).toFixed(1)}Z`;
    const { crosses, number } = crossesAt(x, y);
    clip(parts, [svg('path', { class: 'spread', d: spread }), svg('path', { class: 'longest', d: longest }), svg('path', { class: 'median', d: median }),
      svg('path', { class: number > 500 ? 'cross many' : 'cross', d: crosses })], top - 4, bottom + 4);
  }

  /** The lost requests in view; those at one place are one mark. */
  function crossesAt(x, y) {
    const seen = new Set();
    let crosses = '';
    for (const loss of report.losses) {
      if (loss.at_ms < view[0] || loss.at_ms > view[1]) continue;
      const [across, down] = [Math.round(x(loss.at_ms) / 2) * 2, Math.round(y(loss.took_ms) / 2) * 2];
      const place = across * 10000 + down;
      if (seen.has(place)) continue;
      seen.add(place);
      crosses += `M${across - 3} ${down - 3}l6 6m-6 0l6 -6`;
    }
    return { crosses, number: seen.size };
  }

  function lostPanel(parts, top, bottom) {
    const most = columns.reduce((most, column) => Math.max(most, column.lost), 0);
    const y = lost => bottom - (bottom - top) * lost / (most || 1);
    panelFrame(parts, 'Lost requests', top, bottom, most ? [0, most] : [0], y, count);
    let path = '';
    for (const column of columns.filter(column => column.lost > 0)) {
      const [from, to] = [geometry.x(column.from), Math.max(geometry.x(column.to), geometry.x(column.from) + 2)];
      path += `M${from.toFixed(1)} ${bottom}V${Math.min(y(column.lost), bottom - 3).toFixed(1)}H${to.toFixed(1)}V${bottom}Z`;
    }
    clip(parts, [svg('path', { class: 'lost', d: path })], top, bottom);
  }

  function bands(parts, panels, bottom) {
    if (bars.length > MOST_BARS) return;
    for (const upgrade of bars) {
      const [from, to] = span(upgrade).map(ms => Math.min(Math.max(geometry.x(ms), geometry.left), geometry.right));
      const isBad = outcome(upgrade)[1] === 'bad';
      parts.push(svg('rect', { class: isBad ? 'band bad' : 'band', x: from.toFixed(1), width: Math.max(to - from, 1.5).toFixed(1), y: panels.rate[0], height: bottom - panels.rate[0] }));
    }
  }

  /** The upgrades: a bar for each, its label, and its steps where there is room. */
  function layLane(top, isNarrow) {
    const { left, right, x } = geometry;
    const parts = [text(left, top - 7, isNarrow ? 'Upgrades' : 'Upgrades: version, and the steps of those in view', { class: 'title' })];
    const least = Math.min(7, Math.max(1.5, 0.6 * (right - left) / Math.max(bars.length, 1)));
    let bottom = top + 34, free = left - 20, drawn = new Set();
    if (!bars.length) parts.push(text(left, top + 12, report.upgrades.length ? 'none in view' : 'none'));
    // Those that are not as they should be are drawn last, over the others.
    const order = bars.length > MOST_BARS ? [...bars].sort((a, b) => (outcome(a)[1] === 'bad') - (outcome(b)[1] === 'bad')) : bars;
    for (const upgrade of order) {
      const kind = outcome(upgrade)[1];
      const key = `${Math.round(x(span(upgrade)[0]))} ${kind}`;
      if (bars.length > MOST_BARS && drawn.has(key)) continue;
      drawn.add(key);
      const group = bar(upgrade, kind, top, least);
      parts.push(group.element);
      const [from, to] = [group.from, group.to];
      const name = `${upgrade.number} ${versionName(upgrade)}`;
      const size = name.length * 6.3 + 8;
      const middle = Math.min(Math.max((from + to) / 2, left + size / 2), right - size / 2);
      const label = [name, String(upgrade.number)].find(one => middle - one.length * 3.2 - 4 > free);
      if (label && bars.length <= MOST_BARS) {
        group.element.append(text(middle, top + 28, label, { class: kind === 'bad' ? 'bad' : 'strong', 'text-anchor': 'middle' }));
        free = middle + label.length * 3.2 + 4;
      }
      if (to - from > (isNarrow ? 90 : 140)) bottom = Math.max(bottom, stepRows(parts, upgrade, top, isNarrow));
    }
    return { parts, bottom };
  }

  function bar(upgrade, kind, top, least) {
    const { left, right, x } = geometry;
    const [first, last] = span(upgrade);
    let from = x(first), to = x(last);
    if (to - from < least) [from, to] = [(from + to - least) / 2, (from + to + least) / 2];
    const promoted = stepAt(upgrade, 'promoted');
    const turn = promoted === undefined ? to : Math.min(Math.max(x(promoted), from), to);
    const cut = at => Math.min(Math.max(at, left), right);
    const rect = (a, b, name) => svg('rect', { class: name, x: cut(a).toFixed(1), width: Math.max(cut(b) - cut(a), 0).toFixed(1), y: top, height: 15, rx: 2 });
    const isSmall = to - from < 12;
    const [word] = outcome(upgrade);
    const isFew = bars.length <= MOST_BARS;
    const element = svg('g', {
      class: upgrade.number === chosen ? 'upgrade chosen' : 'upgrade', 'data-upgrade': upgrade.number, tabindex: isFew ? 0 : undefined, role: 'button',
      'aria-label': `Upgrade ${upgrade.number}, ${versionName(upgrade)}: ${word}, ${count(upgrade.lost)} of ${plural(upgrade.requests, 'request')} lost`,
    }, rect(from, isSmall ? to : turn, `bar ${kind}`), rect(isSmall ? to : turn, to, `bar after ${kind}`),
    svg('rect', { class: 'ring', x: (cut(from) - 2).toFixed(1), width: Math.max(cut(to) - cut(from) + 4, 4).toFixed(1), y: top - 2, height: 19, rx: 4 }));
    element.addEventListener('focus', () => {
      cursor = Math.min(Math.max(first, view[0]), view[1]);
      drawCursor(upgrade);
    });
    return { element, from: Math.max(from, left), to: Math.min(to, right) };
  }

  /** Labels of the steps, each in the first row where it doesn't cover another one. Returns where they end. */
  function stepRows(parts, upgrade, top, isNarrow) {
    const { left, right, x } = geometry;
    const first = span(upgrade)[0];
    const rows = [];
    let stems = '', guides = '', bottom = top + 34;
    const base = top + 34;
    for (const step of upgrade.steps) {
      const at = x(step.at_ms);
      if (at < left - 1 || at > right + 1) continue;
      const label = isNarrow ? step.step : `${step.step}  +${(step.at_ms - first).toFixed(step.at_ms - first < 100 ? 1 : 0)} ms`;
      const size = label.length * 6 + 14;
      const isLeft = at + size > right;
      const [from, to] = isLeft ? [at - size, at + 4] : [at - 4, at + size];
      let row = rows.findIndex(taken => taken.every(([a, b]) => to < a || from > b));
      if (row < 0) row = rows.push([]) - 1;
      if (row >= MOST_ROWS) continue;
      rows[row].push([from, to]);
      const y = base + row * LANE_ROW + 9;
      stems += `M${at.toFixed(1)} ${top + 15}V${y}`;
      if (['promoted', 'stop-signal', 'gone', 'failed', 'killed'].includes(step.step)) guides += `M${at.toFixed(1)} 22V${top}`;
      parts.push(svg('circle', { class: 'dot', cx: at.toFixed(1), cy: y, r: 2.5 }),
        text(isLeft ? at - 7 : at + 7, y + 4, label, { class: 'step strong', 'text-anchor': isLeft ? 'end' : 'start' }));
      bottom = Math.max(bottom, y + 8);
    }
    parts.unshift(svg('path', { class: 'guide', d: guides }), svg('path', { class: 'stem', d: stems, 'stroke-opacity': 0.5 }));
    return bottom;
  }

  // ---- cursor, pointer and keys ----

  function drawCursor(focused) {
    const { layer, x, top, bottom } = geometry;
    layer.replaceChildren();
    if (drag && drag.to !== undefined) {
      const [a, b] = [x(Math.min(drag.from, drag.to)), x(Math.max(drag.from, drag.to))];
      layer.append(svg('rect', { class: 'drag', x: a, width: b - a, y: top, height: bottom - top }));
    }
    if (cursor === null) {
      tip.hidden = true;
      return;
    }
    layer.append(svg('path', { class: 'cursor', d: `M${x(cursor).toFixed(1)} ${top}V${bottom}` }));
    tip.replaceChildren(...tipLines(focused));
    tip.hidden = false;
    const scale = chart.clientWidth / geometry.width;
    const at = x(cursor) * scale;
    const isRight = at > chart.clientWidth / 2;
    tip.style.left = isRight ? 'auto' : `${at + 14}px`;
    tip.style.right = isRight ? `${chart.clientWidth - at + 14}px` : 'auto';
    tip.style.top = '26px';
  }

  function tipLines(focused) {
    const column = columns.find(column => cursor >= column.from && cursor < column.to);
    const line = text => el('span', {}, text);
    const fine = Math.max((view[1] - view[0]) / 500, 0.1);
    const lines = [el('b', {}, column ? `${secondsLabel(column.from, 10)} to ${secondsLabel(column.to, 10)} s` : `${secondsLabel(cursor, fine)} s`)];
    if (column) {
      lines.push(line(`${plural(column.requests, 'request')}, ${count(Math.round(column.rate))} per second`));
      if (column.requests) lines.push(line(`latency ${duration(column.median)} (median), ${duration(column.max)} (longest)`));
      if (column.lost) lines.push(el('b', {}, `${count(column.lost)} lost`));
    }
    const upgrade = focused || upgradeAt(cursor);
    if (upgrade) {
      const last = lastStep(upgrade, cursor);
      const [from, to] = span(upgrade);
      lines.push(line(`upgrade ${upgrade.number}, ${versionName(upgrade)}: ${outcome(upgrade)[0]}; ${duration(to - from)} in all, ${count(upgrade.lost)} lost`));
      if (last && cursor <= to && !focused) lines.push(line(`after: ${last.step}`));
    }
    return lines;
  }

  function timeAt(event) {
    const box = picture.getBoundingClientRect();
    const at = (event.clientX - box.left) * geometry.width / box.width;
    const part = (at - geometry.left) / (geometry.right - geometry.left);
    return view[0] + Math.min(1, Math.max(0, part)) * (view[1] - view[0]);
  }

  picture.addEventListener('pointerdown', event => {
    if (event.button === 0) drag = { from: timeAt(event), x: event.clientX, target: event.target };
  });
  picture.addEventListener('pointermove', event => {
    cursor = timeAt(event);
    if (drag && event.pointerType !== 'touch' && Math.abs(event.clientX - drag.x) > 5) {
      if (drag.to === undefined) picture.setPointerCapture(event.pointerId);
      drag.to = cursor;
    }
    drawCursor();
  });
  picture.addEventListener('pointerup', event => {
    const own = drag;
    drag = null;
    if (!own) return;
    cursor = null;
    if (own.to !== undefined) return show([Math.min(own.from, own.to), Math.max(own.from, own.to)], chosen);
    const named = own.target.closest('.upgrade');
    const upgrade = named ? report.upgrades.find(one => String(one.number) === named.dataset.upgrade) : upgradeAt(timeAt(event));
    if (upgrade) choose(upgrade.number);
  });
  picture.addEventListener('pointercancel', () => { drag = null; });
  picture.addEventListener('pointerleave', () => {
    if (drag) return;
    cursor = null;
    drawCursor();
  });
  picture.addEventListener('blur', () => { tip.hidden = true; });
  picture.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const named = event.target.closest('.upgrade');
    const here = named ? Number(named.dataset.upgrade) : cursor !== null && upgradeAt(cursor)?.number;
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => moveCursor(-far), ArrowRight: () => moveCursor(far), Home: () => moveCursor(-Infinity), End: () => moveCursor(Infinity),
      Enter: () => here && choose(here), ' ': () => here && choose(here), n: () => step(1), p: () => step(-1),
      '+': () => zoom(0.5), '=': () => zoom(0.5), '-': () => zoom(2), Escape: () => show(full, null), 0: () => show(full, null),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
    // Drawing replaces the bars: the focus would be lost.
    if (!picture.contains(document.activeElement)) picture.focus({ preventScroll: true });
  });

  function moveCursor(by) {
    if (!columns.length) return;
    let index = cursor === null ? (by > 0 ? -1 : columns.length) : columns.findIndex(column => cursor < column.to);
    if (index < 0) index = cursor === null ? -1 : columns.length - 1;
    const column = columns[Math.min(Math.max(index + by, 0), columns.length - 1)];
    cursor = Math.min(Math.max((column.from + column.to) / 2, view[0]), view[1]);
    drawCursor();
  }

  // ---- the chosen upgrade ----

  function describe() {
    for (const row of document.querySelectorAll('tr[data-upgrade]')) row.classList.toggle('chosen', Number(row.dataset.upgrade) === chosen);
    const upgrade = report.upgrades.find(one => one.number === chosen);
    detail.hidden = !upgrade;
    if (!upgrade) return detail.replaceChildren();
    const [word, kind] = outcome(upgrade);
    const [first] = span(upgrade);
    const own = report.losses.filter(loss => loss.upgrade === upgrade.number);
    const lostAfter = name => own.filter(loss => loss.after === name).length;
    const columns = [
      ['Step', '', step => el('b', {}, step.step)], ['After the request', 'n', step => `+${(step.at_ms - first).toFixed(1)} ms`],
      ['Before the next step', 'n', step => lostAfter(step.step) ? el('b', { class: 'red' }, `${count(lostAfter(step.step))} lost`) : 'none lost'],
      ['Time', 'n time', step => `${(step.at_ms / 1000).toFixed(3)} s`], ['Meaning', 'wide', step => prose(STEPS[step.step] || '')],
    ];
    const fact = text => el('span', { class: 'muted small num' }, text);
    detail.replaceChildren(el('h3', {}, `Upgrade ${upgrade.number}: ${versionName(upgrade)} `, el('span', { class: `chip ${kind}` }, word)),
      upgrade.reason ? el('p', { class: 'small' }, prose(upgrade.reason)) : '',
      el('div', { class: 'facts' }, fact(`${plural(upgrade.requests, 'request')}, ${count(upgrade.lost)} lost`),
        fact(`p50 ${duration(upgrade.latency.p50_ms)}, p99 ${duration(upgrade.latency.p99_ms)}, longest ${duration(upgrade.latency.max_ms)}`)),
      ...table(`Steps of upgrade ${upgrade.number}`, columns, upgrade.steps, 100));
  }

  let known = 0;
  new ResizeObserver(() => {
    if (chart.clientWidth !== known) {
      known = chart.clientWidth;
      // Not at once: drawing changes the size that is observed.
      requestAnimationFrame(draw);
    }
  }).observe(chart);
  return { element, draw, choose };
}
