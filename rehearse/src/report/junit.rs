//! JUnit's XML, for CI systems: a case for each upgrade, and one for the whole.

use std::io;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Suites, TestCase, TestCaseStatus, TestSuite};

use super::{Report, Result as UpgradeResult, Upgrade};

/// # Errors
/// A text can't be written as XML.
pub(crate) fn xml(report: &Report) -> io::Result<String> {
    let mut suite = TestSuite::new(format!("psflip rehearse {}", report.subject));
    suite.set_time(Duration::from_secs_f64(report.duration_ms / 1e3));
    suite.add_test_cases(report.upgrades.iter().map(|upgrade| case(report, upgrade)));
    let mut whole = TestCase::new("the whole rehearsal", status(&report.failures));
    whole.set_classname("psflip.rehearse").set_time(Duration::from_secs_f64(report.duration_ms / 1e3));
    whole.set_system_out(super::terminal::summary(report));
    suite.add_test_case(whole);
    let mut suites = Suites::new("psflip rehearse");
    suites.add_test_suite(suite);
    suites.to_string().map_err(io::Error::other)
}

/// The file of a rehearsal that could not be done.
///
/// # Errors
/// A text can't be written as XML.
pub(crate) fn of_abort() -> io::Result<String> {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message("the rehearsal could not be done: see its standard error, and log.txt");
    let mut suite = TestSuite::new("psflip rehearse");
    suite.add_test_case(TestCase::new("the whole rehearsal", status));
    let mut suites = Suites::new("psflip rehearse");
    suites.add_test_suite(suite);
    suites.to_string().map_err(io::Error::other)
}

fn case(report: &Report, upgrade: &Upgrade) -> TestCase {
    let prefix = [
        format!("upgrade {} ", upgrade.number),
        format!("upgrade {}:", upgrade.number),
        format!("after upgrade {},", upgrade.number),
    ];
    let mut failures: Vec<String> = report
        .failures
        .iter()
        .filter(|text| prefix.iter().any(|prefix| text.starts_with(prefix)))
        .cloned()
        .collect();
    // Which requests it has lost; whether so many are allowed is judged for the whole.
    let lost = report.losses.iter().filter(|lost| lost.upgrade == Some(upgrade.number));
    if !report.failures.is_empty() {
        failures.extend(
            lost.map(|lost| format!("{:?} {}: {} at {:.1} ms", lost.kind, lost.url, lost.cause, lost.at_ms)),
        );
    }
    let mut case =
        TestCase::new(format!("upgrade {} ({})", upgrade.number, upgrade.version.name()), status(&failures));
    let (first, last) = upgrade.span();
    case.set_classname("psflip.rehearse").set_time(Duration::from_secs_f64((last - first) / 1e3));
    if let UpgradeResult::Failed { reason, .. } = &upgrade.result {
        case.set_system_out(reason.clone());
    }
    case
}

fn status(failures: &[String]) -> TestCaseStatus {
    let Some(first) = failures.first() else { return TestCaseStatus::success() };
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(first.clone()).set_description(failures.join("\n"));
    status
}
