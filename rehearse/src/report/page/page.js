// The document. Everything of the report becomes text nodes and attributes, never HTML: commands and errors may contain anything.

/** An element: its attributes, then its children, which are elements or text. */
function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter(child => child !== undefined && child !== null && child !== false));
  return element;
}

/** Text in which `code` stands between backticks. */
function prose(text) {
  return String(text).split('`').map((part, index) => index % 2 ? el('code', {}, part) : part);
}

const count = number => number.toLocaleString('en');
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? '' : 's'}`;
const megabytes = kb => `${(kb / 1024).toFixed(1)} MB`;

function duration(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms < 10) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return ms < 100000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

function share(part, whole) {
  if (!part || !whole) return '0 %';
  const percent = 100 * part / whole;
  return percent < 0.001 ? 'below 0.001 %' : `${percent.toPrecision(percent < 1 ? 1 : 2).replace(/\.0$/, '')} %`;
}

/** What the steps mean; see docs/control.md. */
const STEPS = {
  requested: 'the upgrade was requested',
  started: 'the old psflip starts a new one',
  spawned: 'the new psflip runs',
  starting: 'the new psflip reads the configuration',
  child: 'the new child runs',
  probe: 'a health check failed and is repeated',
  settling: 'the new child is healthy and has to stay so for a while',
  healthy: 'the new child has passed the health check',
  hook: 'a hook of the configuration runs',
  switch: 'the traffic is switched',
  baking: 'the new version has the traffic on trial',
  pidfile: 'the pidfile names the new generation',
  promoted: 'the new version has the traffic',
  answering: 'the proxy of the old generation answers the requests in progress',
  delay: 'the old generation waits for `shutdown.delay`',
  'stop-signal': 'the old child got its stop signal',
  killed: 'the old child was killed, because it did not exit in time',
  orphans: 'leftover processes of the old child got the stop signal',
  orphans_killed: 'leftover processes of the old child were killed',
  closing: 'the proxy of the old generation delivers what the child had sent',
  gone: 'the old generation has exited',
  failed: 'the upgrade failed; the old version keeps serving',
};
const CONNECTIONS = { own: 'its own', first: 'fresh keep-alive', reused: 'reused keep-alive' };
const STAGES = {
  connect: 'connecting', send: 'sending the request', 'first-byte': 'waiting for the answer', head: 'reading the head of the answer',
  body: 'reading the body of the answer', protocol: 'understanding the answer', status: 'the answer itself',
};

const stepAt = (upgrade, name) => upgrade.steps.find(step => step.step === name)?.at_ms;
const versionName = upgrade => upgrade.version === 'bad' ? upgrade.bad : upgrade.version;
const isBad = upgrade => upgrade.version === 'bad';

function span(upgrade) {
  const first = upgrade.steps.length ? upgrade.steps[0].at_ms : 0;
  return [first, upgrade.steps.length ? upgrade.steps[upgrade.steps.length - 1].at_ms : first];
}

/** The result as a word, and whether it is as it should be: `good`, `refused` (a bad version) or `bad`. */
function outcome(upgrade) {
  if (upgrade.result === 'promoted') return isBad(upgrade) ? ['accepted', 'bad'] : ['promoted', 'good'];
  return [upgrade.rolled_back ? 'rolled back' : isBad(upgrade) ? 'refused' : 'failed', isBad(upgrade) ? 'refused' : 'bad'];
}

/** From the first step to another one. */
function since(upgrade, name) {
  const at = stepAt(upgrade, name);
  return at === undefined ? undefined : at - span(upgrade)[0];
}

function card(title, ...children) {
  return el('section', { class: 'card', 'aria-label': title }, el('div', { class: 'head' }, el('h2', {}, title)), ...children);
}

/**
 * A table. Columns: `[label, class, row => children]`. It shows `limit` rows, and a button for more.
 */
function table(label, columns, rows, limit, rowClass) {
  const body = el('tbody', { role: 'rowgroup' });
  const head = columns.map(([name, kind]) => el('th', { scope: 'col', role: 'columnheader', class: kind }, name));
  const whole = el('table', { role: 'table', 'aria-label': label },
    el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, head)), body);
  const more = el('button', { type: 'button', class: 'more', onclick: () => add(Math.max(limit, 500)) });
  let shown = 0;
  function add(number) {
    for (const row of rows.slice(shown, shown + number)) {
      const cells = columns.map(([name, kind, cell]) => {
        const content = [cell(row)].flat().filter(part => part !== undefined && part !== null && part !== '');
        return el('td', { role: 'cell', class: kind, 'data-label': name }, content.length ? el('div', {}, content) : '');
      });
      body.append(el('tr', { role: 'row', ...(rowClass ? rowClass(row) : {}) }, cells));
    }
    shown = Math.min(rows.length, shown + number);
    more.hidden = shown === rows.length;
    more.textContent = `Show ${count(Math.min(Math.max(limit, 500), rows.length - shown))} more of ${count(rows.length)}`;
  }
  add(limit);
  return [el('div', { class: 'scroll' }, whole), more];
}

function sumUp() {
  const good = report.upgrades.filter(upgrade => !isBad(upgrade));
  const bad = report.upgrades.filter(isBad);
  const took = good.map(upgrade => since(upgrade, 'promoted')).filter(ms => ms !== undefined).sort((a, b) => a - b);
  const p99 = report.upgrades.map(upgrade => upgrade.latency.p99_ms).filter(ms => ms !== null);
  return {
    good, bad, took, p99: p99.length ? p99.reduce((a, b) => Math.max(a, b)) : null,
    promoted: good.filter(upgrade => upgrade.result === 'promoted').length,
    refused: bad.filter(upgrade => upgrade.result !== 'promoted').length,
  };
}

function verdict() {
  const all = sumUp();
  const passed = report.failures.length === 0;
  const lost = report.lost === 0 ? `None of ${plural(report.requests, 'request')}` : `${count(report.lost)} of ${plural(report.requests, 'request')}`;
  const versions = all.bad.length ? ` and ${plural(all.bad.length, 'bad version')}` : '';
  const tile = (name, value, note, isRed) => el('div', {}, el('dt', {}, name),
    el('dd', { class: isRed && 'red' }, value), el('dd', { class: 'small' }, note));
  const median = all.took[Math.floor(all.took.length / 2)];
  const tiles = [
    tile('Requests', count(report.requests), `${count(Math.round(report.rate))} per second`),
    tile('Lost', count(report.lost), report.keep_alive_lost ? `${share(report.lost, report.requests)}; ${count(report.keep_alive_lost)} on reused keep-alive connections`
      : `${share(report.lost, report.requests)} of all requests`, report.lost > 0),
    tile('Upgrades', `${count(all.promoted)} of ${count(all.good.length)}`, all.took.length ? `promoted, after ${duration(median)} (median), ${duration(all.took[all.took.length - 1])} at most`
      : 'promoted', all.promoted < all.good.length),
    all.bad.length > 0 && tile('Bad versions', `${count(all.refused)} of ${count(all.bad.length)}`, 'refused or rolled back', all.refused < all.bad.length),
    tile('p99 latency', duration(all.p99), `during the slowest upgrade; ${duration(report.steady.p99_ms)} between upgrades`),
  ];
  return el('section', { class: `card verdict ${passed ? 'passed' : 'failed'}`, 'aria-label': 'Result' },
    el('h1', {}, el('span', { class: 'word' }, passed ? 'passed' : 'FAILED'),
      el('span', {}, `${lost} lost over ${plural(all.good.length, 'upgrade')}${versions}`)),
    report.failures.length > 0 && el('ul', { class: 'failures' }, report.failures.map(text => el('li', { class: 'failure' }, prose(text)))),
    el('dl', { class: 'tiles' }, tiles));
}

function findings() {
  const whole = card('Why requests were lost, and what to do');
  whole.classList.add('long');
  if (report.findings.length === 0) {
    whole.append(el('p', { class: 'muted' }, report.lost ? 'No loss could be explained.' : 'No request was lost.'));
  }
  const explained = report.findings.reduce((sum, finding) => sum + finding.count, 0);
  if (explained < report.lost && explained > 0) {
    whole.append(el('p', { class: 'muted small' }, `These are the first ${count(explained)} of ${plural(report.lost, 'lost request')}.`));
  }
  for (const finding of report.findings) {
    const seen = (finding.seen || []).map(one => el('li', { class: 'seen-one' }, el('b', {}, `${count(one.count)} × `), prose(one.what)));
    whole.append(el('article', { class: 'finding' },
      el('h3', {}, el('span', { class: 'red num' }, `${count(finding.count)} lost`), ': ', prose(finding.why)),
      el('dl', {},
        el('dt', {}, 'What to do'), el('dd', {}, el('p', {}, prose(finding.remedy))),
        el('dt', {}, 'Documentation'), el('dd', {}, el('span', { class: 'mono' }, finding.page)),
        seen.length > 0 && [el('dt', {}, 'Clients saw'), el('dd', {}, el('ul', { class: 'seen' }, seen))])));
  }
  return whole;
}

function usage(one) {
  if (!one || !one.processes) return '–';
  return [megabytes(one.memory_kb), el('span', { class: 'sub' }, plural(one.descriptors, 'descriptor'), el('br'), plural(one.processes, 'process').replace('processs', 'processes'))];
}

/** How much more the last upgrade left in use than the first one: a leak shows. */
function growth() {
  const good = report.upgrades.filter(upgrade => !isBad(upgrade));
  const [first, last] = [good[0], good[good.length - 1]];
  if (good.length < 2) return null;
  const one = (name, a, b) => a.processes > 0 && b.processes > 0 && `${name}: ${megabytes(a.memory_kb)} and ${plural(a.descriptors, 'descriptor')} `
    + `after upgrade ${first.number}, ${megabytes(b.memory_kb)} and ${count(b.descriptors)} after upgrade ${last.number}.`;
  const lines = [one('psflip', first.psflip, last.psflip), one('Child', first.child, last.child)].filter(Boolean);
  return lines.length > 0 && el('p', { class: 'note muted small' }, lines.join(' '));
}

function upgrades(chart) {
  const result = upgrade => {
    const [word, kind] = outcome(upgrade);
    return [el('span', { class: `chip ${kind}` }, word), upgrade.killed && [' ', el('span', { class: 'chip warning' }, 'old child killed')],
      upgrade.reason && el('span', { class: 'sub' }, prose(upgrade.reason)),
      upgrade.generation !== null && upgrade.generation !== undefined && el('span', { class: 'sub' }, `generation ${upgrade.generation}`)].flat();
  };
  const latency = key => upgrade => duration(upgrade.latency[key]);
  const columns = [
    ['Upgrade', '', upgrade => el('button', { type: 'button', class: 'number', 'aria-label': `Show upgrade ${upgrade.number} in the timeline`,
      onclick: () => chart.choose(upgrade.number, true) }, String(upgrade.number))],
    ['Version', 'name', upgrade => isBad(upgrade) ? ['bad: ', el('span', { class: 'mono' }, upgrade.bad)] : upgrade.version],
    ['Result', 'wide', result],
    ['Active after', 'n', upgrade => duration(since(upgrade, 'promoted'))],
    ['Old gone after', 'n', upgrade => duration(since(upgrade, 'gone'))],
    ['Requests', 'n', upgrade => count(upgrade.requests)],
    ['Lost', 'n', upgrade => upgrade.lost ? el('b', { class: 'red' }, count(upgrade.lost)) : '0'],
    ['p50', 'n', latency('p50_ms')], ['p99', 'n', latency('p99_ms')], ['Longest', 'n', latency('max_ms')],
    ['psflip afterwards', 'n', upgrade => usage(upgrade.psflip)], ['Child afterwards', 'n', upgrade => usage(upgrade.child)],
  ];
  const whole = card('Upgrades');
  whole.classList.add('long');
  if (report.upgrades.length === 0) whole.append(el('p', { class: 'muted' }, 'No upgrade was made.'));
  else whole.append(growth() || '', ...table('Upgrades', columns, report.upgrades, 200, upgrade => ({ 'data-upgrade': upgrade.number })));
  return whole;
}

function loads() {
  const latency = key => load => duration(load.latency[key]);
  const columns = [
    ['URL', 'wide', load => el('span', { class: 'mono' }, load.url)], ['Kind', '', load => load.kind],
    ['Clients', 'n', load => count(load.clients)], ['Requests', 'n', load => count(load.requests)],
    ['Lost', 'n', load => load.lost ? el('b', { class: 'red' }, count(load.lost)) : '0'], ['p50', 'n', latency('p50_ms')],
    ['p90', 'n', latency('p90_ms')], ['p99', 'n', latency('p99_ms')], ['Longest', 'n', latency('max_ms')],
  ];
  const notes = [`Latencies are at most as much too long as the load itself was late: ${duration(report.own_delay.p99_ms)} (p99), ${duration(report.own_delay.max_ms)} at most.`];
  if (report.closed_politely) notes.push(`${plural(report.closed_politely, 'WebSocket')} closed by the server with a close frame, as it should.`);
  return card('Load', el('p', { class: 'note muted small' }, notes.join(' ')), ...table('Load', columns, report.loads, 200, () => ({ class: 'load' })));
}

function losses() {
  const whole = card('Lost requests');
  whole.classList.add('long');
  if (report.losses.length === 0) {
    whole.append(el('p', { class: 'muted' }, 'No request was lost.'));
    return whole;
  }
  const isOneUrl = new Set(report.loads.map(load => load.url)).size < 2;
  const place = loss => loss.upgrade === null ? 'between upgrades'
    : [`upgrade ${loss.upgrade}`, loss.after && [', after ', el('code', {}, loss.after)]].flat();
  const columns = [
    ['Time', 'n', loss => `${(loss.at_ms / 1000).toFixed(3)} s`], ['When', '', place],
    ['Request', '', loss => [loss.kind, isOneUrl ? '' : el('span', { class: 'sub mono' }, loss.url)]],
    ['Connection', '', loss => CONNECTIONS[loss.connection] || loss.connection], ['Stage', '', loss => STAGES[loss.stage] || loss.stage],
    ['Cause', 'wide', loss => loss.cause], ['Took', 'n', loss => duration(loss.took_ms)],
  ];
  const list = el('div', {});
  const fill = rows => list.replaceChildren(...table('Lost requests', columns, rows, 100, () => ({ class: 'loss' })));
  const where = [...new Set(report.losses.map(loss => loss.upgrade))].sort((a, b) => (a ?? 1e9) - (b ?? 1e9));
  if (where.length > 1) {
    const options = where.map(number => el('option', { value: String(number) }, number === null ? 'between upgrades' : `upgrade ${number}`));
    const filter = el('select', { 'aria-label': 'Which lost requests', onchange: event =>
      fill(report.losses.filter(loss => event.target.value === 'all' || String(loss.upgrade) === event.target.value)) },
    el('option', { value: 'all' }, 'all'), options);
    whole.firstChild.append(el('span', { class: 'end tools' }, filter));
  }
  const number = report.losses.length;
  whole.firstChild.children[0].after(el('span', { class: 'muted small' }, number < report.lost ? `the first ${count(number)} of ${count(report.lost)}` : count(number)));
  fill(report.losses);
  whole.append(list);
  return whole;
}

function end() {
  const whole = card('Shutdown');
  if (report.end) whole.append(el('p', {}, 'When it was stopped, the service ', el('b', {}, report.end), '.'));
  if (report.left.length === 0) whole.append(el('p', { class: 'muted' }, 'No process was left.'));
  else {
    whole.append(el('p', { class: 'red' }, `${plural(report.left.length, 'process').replace('processs', 'processes')} left:`),
      ...table('Processes left', [['PID', 'n', one => String(one.pid)], ['Command', 'wide', one => el('span', { class: 'mono' }, one.command)]],
        report.left, 200, () => ({ class: 'left' })));
  }
  return whole;
}

function page() {
  const began = new Date(report.began_at).toISOString().replace('T', ' ').slice(0, 19);
  document.title = `${report.failures.length ? 'FAILED' : 'passed'}: psflip rehearse ${report.subject}`;
  const main = document.getElementById('report');
  main.append(el('div', { class: 'top' }, el('b', {}, 'psflip rehearse'), el('span', { class: 'mono' }, report.subject),
    el('span', { class: 'end num' }, `${began} UTC, ${duration(report.duration_ms)}`)), verdict());
  const chart = timeline();
  main.append(chart.element, findings(), upgrades(chart), loads(), losses(), end(),
    el('footer', {}, `psflip rehearse ${report.version}, report format ${report.psflip_rehearse}. Times are seconds since the rehearsal began. `
      + 'p50, p90 and p99: 50, 90 and 99 % of the requests took at most this long. Memory is PSS: what processes share counts once.'));
  chart.draw();
  // report.html#upgrade-3 shows that upgrade.
  const linked = () => /^#upgrade-\d+$/.test(location.hash) && chart.choose(Number(location.hash.slice(9)), true);
  window.addEventListener('hashchange', linked);
  linked();
}

page();
document.body.dataset.ready = 'true';
