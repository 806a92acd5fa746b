//! The page in a browser: a report of a real rehearsal, in light and in dark, on a wide and on a narrow screen.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use testkit::{Deadline, Running, Sandbox, need};

/// From a rehearsal of a server that psflip kills with SIGKILL, with the bad versions `crash` and `dies-later`.
const REPORT: &str = include_str!("../../../tests/report.json");

/// Where the report names what was rehearsed: it would run if the page took texts for HTML.
const HOSTILE: &str = "</script><script>throw 1</script><!--<script><img src=x onerror='throw 2'>";

/// Reads in the page what it shows, and sends that to the page around it.
const PROBE: &str = r"<script>
const all = (selector, value) => [...document.querySelectorAll(selector)].map(value);
const key = key => document.querySelector('.chart svg').dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
const light = hex => {
  const parts = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16) / 255);
  const [r, g, b] = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const color = name => {
  const value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return value.length === 4 ? value.replace(/[0-9a-f]/g, '$&$&') : value;
};
function contrasts() {
  const ratio = (a, b) => Math.max(light(a), light(b)) / Math.min(light(a), light(b));
  const pairs = ['text', 'muted', 'blue', 'green', 'red', 'amber', 'violet'].flatMap(one => ['card', 'inset', 'page'].map(on => [one, on]));
  pairs.push(['green', 'green-soft'], ['red', 'red-soft'], ['amber', 'amber-soft'], ['tip-text', 'tip'], ['card', 'red'], ['card', 'green']);
  return pairs.map(([one, on]) => [`${one} on ${on}`, ratio(color(one), color(on))]).filter(([, ratio]) => ratio < 4.5);
}
function seen() {
  const seen = {
    width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth,
    background: getComputedStyle(document.body).backgroundColor, text: getComputedStyle(document.body).color,
    ready: document.body.dataset.ready, verdict: document.querySelector('.word').textContent,
    subject: document.querySelector('.top .mono').textContent, failures: all('.failure', one => one.textContent),
    bars: all('svg .upgrade', one => Number(one.dataset.upgrade)), rows: all('tr[data-upgrade]', one => Number(one.dataset.upgrade)),
    findings: all('.finding', one => one.textContent), losses: all('tr.loss', one => one.textContent), loads: all('tr.load', one => one.textContent),
    images: document.images.length, contrasts: contrasts(),
  };
  key('n');
  seen.chosen = all('svg .chosen', one => Number(one.dataset.upgrade));
  seen.steps = all('.detail tbody tr', one => one.textContent);
  key('ArrowRight');
  seen.tip = document.querySelector('.tip').textContent;
  key('Escape');
  seen.chosenAfterEscape = all('svg .chosen', () => 1);
  seen.errors = document.body.dataset.errors;
  parent.postMessage(JSON.stringify(seen), '*');
}
setTimeout(seen, 100);
</script></body>";

const AROUND: &str = r"<!DOCTYPE html><meta name='color-scheme' content='light dark'><pre id='seen'></pre><script>
addEventListener('message', event => { document.getElementById('seen').textContent += event.data.replaceAll('<', '\\u003c') + '\n'; });
</script>
<iframe src='report.html' style='width: 1400px; height: 900px; border: 0'></iframe>
<iframe src='report.html' style='width: 400px; height: 900px; border: 0'></iframe>
<iframe src='empty.html' style='width: 900px; height: 900px; border: 0'></iframe>";

/// What a page of a width shows, by its probe.
struct Seen(Value);

impl Seen {
    fn list(&self, key: &str) -> Vec<String> {
        let list = self.0[key].as_array().unwrap_or_else(|| panic!("{key}: {:#}", self.0));
        list.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect()
    }

    fn assert_has(&self, key: &str, number: usize, texts: impl IntoIterator<Item = String>) {
        let list = self.list(key);
        assert_eq!(list.len(), number, "{key}: {list:#?}");
        for (one, text) in list.iter().zip(texts) {
            assert!(one.contains(&text), "{key}: {one} has not {text}");
        }
    }
}

/// Chromium, as it shows a report on a wide and on a narrow screen, and an empty one.
struct Browser {
    running: Arc<Running>,
    _sandbox: Sandbox, // dropped last: it stops what still runs
}

impl Browser {
    /// `scheme`: 0 is dark, 1 is light.
    fn start(chromium: &str, scheme: u8, report: &Value) -> Self {
        let sandbox = Sandbox::new();
        let page = |report: &Value| super::page(&report.to_string()).replace("</body>", PROBE);
        sandbox.write("report.html", page(report));
        sandbox.write("empty.html", page(&emptied(report)));
        let around = sandbox.write("around.html", AROUND);
        let profile = format!("--user-data-dir={}", sandbox.path("profile").display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        let url = format!("file://{}", around.display());
        let fixed = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
        ];
        let page =
            ["--window-size=1500,1000", "--virtual-time-budget=5000", "--dump-dom", &scheme, &profile, &url];
        let command = sandbox.command([chromium].iter().chain(&fixed).chain(&page));
        let running = command.env("HOME", sandbox.dir()).start();
        Self { running, _sandbox: sandbox }
    }

    /// What the pages show: the narrow one, the empty one, and the wide one.
    fn seen(&self) -> [Seen; 3] {
        let status = self.running.wait_exit_by(Deadline::after(Duration::from_secs(60)));
        let (dom, log) = (self.running.stdout(), self.running.stderr());
        assert!(status.success(), "{status}: {log}");
        let lines = dom.split_once("<pre id=\"seen\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let lines =
            lines.unwrap_or_else(|| panic!("{dom}\n{log}")).0.replace("&gt;", ">").replace("&amp;", "&");
        let mut seen: Vec<Seen> =
            lines.lines().map(|line| Seen(serde_json::from_str(line).expect(line))).collect();
        seen.sort_by_key(|seen| seen.0["width"].as_u64());
        let widths: Vec<_> = seen.iter().map(|seen| seen.0["width"].as_u64()).collect();
        assert_eq!(widths, [Some(400), Some(900), Some(1400)], "a page did not answer: {dom}\n{log}");
        seen.try_into().ok().unwrap()
    }
}

/// A rehearsal in which nothing happened.
fn emptied(report: &Value) -> Value {
    let mut report = report.clone();
    for key in ["loads", "upgrades", "losses", "findings", "timeline", "left", "failures"] {
        report[key] = Value::Array(Vec::new());
    }
    for key in ["requests", "lost", "keep_alive_lost", "rate"] {
        report[key] = 0.into();
    }
    report
}

fn check(seen: &Seen, report: &Value) {
    let list = |key: &str| report[key].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!((&seen.0["ready"], &seen.0["errors"]), (&"true".into(), &Value::Null), "{:#}", seen.0);
    assert!(seen.0["overflow"].as_i64() <= Some(0), "the page scrolls sideways: {:#}", seen.0);
    assert_eq!(
        (&seen.0["verdict"], &seen.0["subject"], &seen.0["images"]),
        (&"FAILED".into(), &HOSTILE.into(), &0.into())
    );
    let plain = |text: String| text.replace('`', "");
    seen.assert_has("failures", list("failures").len(), list("failures").iter().map(|one| plain(text(one))));
    let numbers: Vec<String> = list("upgrades").iter().map(|upgrade| upgrade["number"].to_string()).collect();
    assert_eq!((seen.list("bars"), seen.list("rows")), (numbers.clone(), numbers));
    seen.assert_has(
        "findings",
        list("findings").len(),
        list("findings").iter().map(|one| plain(text(&one["remedy"]))),
    );
    seen.assert_has("losses", list("losses").len(), list("losses").iter().map(|one| text(&one["cause"])));
    seen.assert_has("loads", list("loads").len(), list("loads").iter().map(|one| text(&one["url"])));
    let steps = report["upgrades"][0]["steps"].as_array().unwrap();
    seen.assert_has("steps", steps.len(), steps.iter().map(|one| text(&one["step"])));
    assert_eq!((seen.list("chosen"), seen.list("chosenAfterEscape")), (vec!["1".to_owned()], Vec::new()));
    assert!(seen.0["tip"].as_str().unwrap().contains("request"), "{:#}", seen.0);
    assert_eq!(seen.list("contrasts"), Vec::<String>::new());
}

#[test]
fn the_page_shows_everything_in_light_and_in_dark() {
    let Some(chromium) = need("chromium") else { return };
    let mut report: Value = serde_json::from_str(REPORT).unwrap();
    report["subject"] = HOSTILE.into();
    let browsers = [0, 1].map(|scheme| Browser::start(chromium.to_str().unwrap(), scheme, &report));
    let [dark, light] = browsers.map(|browser| {
        let [narrow, empty, wide] = browser.seen();
        check(&narrow, &report);
        check(&wide, &report);
        assert_eq!(
            (&empty.0["errors"], &empty.0["verdict"]),
            (&Value::Null, &"passed".into()),
            "{:#}",
            empty.0
        );
        assert!(empty.0["overflow"].as_i64() <= Some(0), "{:#}", empty.0);
        (wide.0["background"].clone(), wide.0["text"].clone())
    });
    assert_eq!(dark.0, "rgb(13, 17, 23)", "the dark page: {dark:?}");
    assert!(dark.0 != light.0 && dark.1 != light.1, "{dark:?} {light:?}");
}
