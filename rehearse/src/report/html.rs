//! One HTML file: the timeline with requests, latencies, losses and upgrades on one clock.

/// The page. The other files, and the data, stand where these texts are.
const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = "/*CSS*/";
const SCRIPT: &str = "/*JS*/";
const DATA: &str = "/*DATA*/null";

/// The page with a report, which is JSON. It loads nothing from elsewhere.
pub(crate) fn page(json: &str) -> String {
    let scripts = concat!(include_str!("page/timeline.js"), "\n", include_str!("page/page.js"));
    // The data comes last: it may contain the other texts.
    let page = PAGE.replace(STYLE, include_str!("page/page.css")).replace(SCRIPT, scripts);
    // In a script, `</script` and `<!--` have a meaning. In JSON, `<` stands in strings only.
    page.replace(DATA, &json.replace('<', "\\u003c"))
}

#[cfg(test)]
mod browser;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_cant_end_the_script() {
        let page = page(r#"{"cause":"</script><!--<script>"}"#);
        assert!(page.contains(r#"{"cause":"\u003c/script>\u003c!--\u003cscript>"}"#), "{page}");
        assert!(!page.contains(DATA) && !page.contains(STYLE) && !page.contains(SCRIPT));
    }
}
