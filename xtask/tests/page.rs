//! The report's page, looked at in a browser: at the width of a phone and of a desktop, in light and in dark. And the
//! commands that look at runs which are over.
//!
//! The run in `fixtures/report` is the log of a real one with what it says replaced by words that are made to break a page.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// How long a browser may take, seconds; it takes two.
const PATIENCE_S: &str = "25";

/// Widths of the page, CSS pixels. A browser's window can't be as narrow as a phone, a frame in it can.
const WIDTHS: [u32; 2] = [360, 1100];

/// Put into the page: unfolds everything, looks at it, and tells the page around it.
const PROBE: &str = r#"<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message || event.target.outerHTML)), true);
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(details => details.open = true);
  const pictures = [...document.querySelectorAll("svg")].filter(svg => getComputedStyle(svg).display != "none");
  const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
  const words = [];
  for (const svg of pictures) for (const text of svg.querySelectorAll("text")) {
    const place = text.getBoundingClientRect();
    if (place.width > 0 && outside(place, svg.getBoundingClientRect())) words.push(text.textContent);
  }
  const luminance = getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3)
    .reduce((sum, part) => sum + Number(part), 0) / 3;
  parent.postMessage(JSON.stringify({
    errors,
    width: innerWidth,
    scroll_width: document.scrollingElement.scrollWidth,
    dark: luminance < 128,
    pictures: pictures.map(svg => svg.getAttribute("class")),
    empty: pictures.filter(svg => !(svg.getBoundingClientRect().width > 0 && svg.getBoundingClientRect().height > 0)
      || svg.childElementCount < 3).length,
    unnamed: pictures.filter(svg => !svg.querySelector("title")?.textContent || !svg.querySelector("desc")?.textContent).length,
    outside: words,
    foreign: document.querySelectorAll("img, iframe, object, link[href]:not([href^='data:'])").length,
    scripts: document.scripts.length,
  }), "*");
});
</script>"#;

/// What the probe found.
#[derive(Debug, Deserialize)]
struct Findings {
    errors: Vec<String>,
    width: u32,
    scroll_width: u32,
    dark: bool,
    pictures: Vec<String>,
    empty: u32,
    unnamed: u32,
    outside: Vec<String>,
    foreign: u32,
    scripts: u32,
}

fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).arg("hil").args(args).output().unwrap()
}

/// A copy of the run in the fixtures.
fn run_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/report");
    for name in ["events.jsonl", "summary.json"] {
        fs::copy(fixtures.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Shows the page in frames of all widths, and returns what the probes found and what the browser said.
fn look(dir: &Path, dark: bool) -> (Vec<Findings>, String) {
    let frames = WIDTHS.map(|width| {
        format!("<iframe src=\"probed.html\" style=\"width:{width}px;height:900px;border:0\"></iframe>")
    });
    let around = format!(
        "<!doctype html><meta name=\"color-scheme\" content=\"light dark\"><script>\
         addEventListener('message', event => {{ const found = document.createElement('pre'); \
         found.textContent = event.data; document.body.append(found); }});</script><body>{}</body>",
        frames.concat()
    );
    fs::write(dir.join("around.html"), around).unwrap();
    let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!dark));
    let output = Command::new("timeout")
        .args([PATIENCE_S, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"])
        .args(["--window-size=1200,2000", &scheme])
        .arg(format!("--user-data-dir={}", dir.join(format!("profile-{dark}")).display()))
        .arg(format!("file://{}", dir.join("around.html").display()))
        .output()
        .unwrap();
    let (dom, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    let texts = dom.split("<pre>").skip(1).filter_map(|rest| rest.split("</pre>").next());
    let unescape = |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let found = texts.map(|text| serde_json::from_str(&unescape(text)).unwrap()).collect();
    (found, said)
}

#[test]
fn the_page_is_whole_at_every_width_in_light_and_dark() {
    let dir = run_folder();
    let drawn = xtask(&["report", dir.path().to_str().unwrap()]);
    assert!(drawn.status.success(), "{drawn:?}");
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    fs::write(dir.path().join("probed.html"), page.replace("</head>", &format!("{PROBE}</head>"))).unwrap();
    for dark in [false, true] {
        let (found, said) = look(dir.path(), dark);
        let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert_eq!(console, Vec::<&str>::new());
        let mut widths: Vec<u32> = found.iter().map(|found| found.width).collect();
        widths.sort_unstable();
        assert_eq!(widths, WIDTHS, "{said}");
        for found in found {
            assert_eq!(found.errors, Vec::<String>::new(), "at {}", found.width);
            assert_eq!(found.dark, dark);
            assert!(found.scroll_width <= found.width, "{} at {}", found.scroll_width, found.width);
            assert_eq!((found.empty, found.unnamed), (0, 0), "{:?}", found.pictures);
            assert_eq!(found.outside, Vec::<String>::new(), "words outside of a picture, at {}", found.width);
            assert_eq!((found.foreign, found.scripts), (0, 1), "the probe is the only script");
            let count = |class: &str| found.pictures.iter().filter(|name| name.contains(class)).count();
            // The whole run, two suites, three scenarios with faults; two networks, inside and between.
            assert_eq!((count("topology"), count("timeline"), count("columns")), (1, 6, 4));
        }
    }
}

#[test]
fn what_is_no_run_is_refused() {
    let dir = run_folder();
    let folder = dir.path().to_str().unwrap();
    fs::write(dir.path().join("events.jsonl"), "what?\n").unwrap();
    for args in [&["report", folder][..], &["report", "/nowhere"], &["compare", folder, folder]] {
        let output = xtask(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("events.jsonl"), "{output:?}");
    }
}

#[test]
fn a_run_that_got_worse_is_told_by_the_exit_code() {
    let (bad, good) = (run_folder(), run_folder());
    let path = good.path().join("events.jsonl");
    let log = fs::read_to_string(&path).unwrap();
    let log = log.replace(r#""verdict":"failed""#, r#""verdict":"passed""#);
    fs::write(&path, log.replace(r#""good":false"#, r#""good":true"#)).unwrap();
    let (bad, good) = (bad.path().to_str().unwrap(), good.path().to_str().unwrap());
    assert_eq!(xtask(&["compare", bad, good]).status.code(), Some(0));
    let worse = xtask(&["compare", "--json", good, bad]);
    assert_eq!(worse.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&worse.stdout).unwrap();
    assert_eq!((&json["worse"], &json["verdicts"][0]["after"]), (&true.into(), &"failed".into()));
}
