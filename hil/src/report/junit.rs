//! `junit.xml`: what CI systems read. A test case per scenario.

use super::{ScenarioResult, Summary};
use crate::events::Verdict;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::time::Duration;

/// The run as `JUnit` XML. A run that was aborted has a failed case of its own, so that it is never shown as good.
pub fn junit(summary: &Summary) -> String {
    let mut report = Report::new(format!("twinrack hil {}", summary.shape));
    for result in &summary.suites {
        let mut suite = TestSuite::new(result.name.clone());
        suite.add_test_cases(result.scenarios.iter().map(case));
        report.add_test_suite(suite);
    }
    if let Some(why) = &summary.aborted {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(why.clone());
        let mut suite = TestSuite::new("run");
        suite.add_test_case(TestCase::new("came to its end", status));
        report.add_test_suite(suite);
    }
    report.to_string().unwrap_or_default()
}

fn case(scenario: &ScenarioResult) -> TestCase {
    let status = match scenario.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::NotApplicable => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(scenario.why.clone().unwrap_or_default());
            status
        }
        Verdict::Failed => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            if let Some(step) = scenario.failure() {
                status.set_message(format!("{}: {}", step.step, step.seen));
            }
            status
        }
    };
    let mut case = TestCase::new(scenario.name.clone(), status);
    case.set_time(Duration::from_millis(scenario.took_ms));
    let lines: Vec<String> =
        scenario.steps.iter().map(|step| format!("{}: {}", step.step, step.seen)).collect();
    case.set_system_out(lines.join("\n"));
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_case_per_scenario_with_what_was_seen() {
        insta::assert_snapshot!(junit(&example()));
    }

    #[test]
    fn an_aborted_run_is_never_green() {
        let aborted = Summary { aborted: Some("node a1 did not boot".into()), suites: vec![], ..example() };
        let xml = junit(&aborted);
        assert!(xml.contains("errors=\"1\"") && xml.contains("node a1 did not boot"), "{xml}");
    }
}
