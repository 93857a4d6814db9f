//! `twinrack watch`: the cluster as it is, drawn anew each second on a terminal.
//!
//! Purpose: ask, draw, look for keys. What is drawn is [`picture`]'s, of what [`crate::status`] sees. Nothing is changed in the cluster.
//!
//! On failure: [`ClusterError`], after the terminal is as it was. A cluster that does not answer is drawn as that, with when it last did.

mod picture;

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::status::{self, seen::Status};
use clap::Args;
use deploy::Member;
use picture::Picture;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// From one look at the cluster to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Racks side by side, nodes, who leads and votes, volumes and their copies, what is being brought up to date, and what is not well. q, Esc or Ctrl-C ends it;
nothing is changed in the cluster. For scripts there is `twinrack status --json`.

Example:
  twinrack watch --access access.json

Exit codes: 0 ended by its user; 1 the terminal can't be used; 2 the access file or the command line can't be read, or the output is no terminal.";

/// The cluster, drawn anew each second.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: &WatchArgs) -> io::Result<Outcome> {
    cluster::run_and_judge(&args.cluster, |members, _| async move {
        if args.cluster.json || !io::stdout().is_terminal() {
            return Err(ClusterError::NoTerminal);
        }
        let mut terminal = ratatui::try_init().map_err(ClusterError::Terminal)?;
        let watched = watch(&mut terminal, &members).await;
        ratatui::restore();
        watched.map(|()| (String::new(), Outcome::Good)).map_err(ClusterError::Terminal)
    })
}

async fn watch(terminal: &mut DefaultTerminal, members: &[Member]) -> io::Result<()> {
    let mut events = events();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<(Status, Instant)> = None;
    loop {
        let picture = Picture {
            status: seen.as_ref().map(|(status, _)| status),
            asked: members.len(),
            age_s: seen.as_ref().map_or(0, |(_, at)| at.elapsed().as_secs()),
        };
        terminal.draw(|frame| frame.render_widget(&picture, frame.area()))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(event)) if !is_end(&event) => {}
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) | None => return Ok(()),
            },
            looked = async { looks.tick().await; status::ask(members).await } => {
                // Who does not answer now is asked again; meanwhile the picture says how old it is.
                if let Ok(status) = looked {
                    seen = Some((status, Instant::now()));
                }
            }
        }
    }
}

/// What the terminal tells. The thread waits in a read that nothing ends but the process.
fn events() -> UnboundedReceiver<io::Result<Event>> {
    let (told, events) = unbounded_channel();
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if told.send(event).is_err() || is_over {
                return;
            }
        }
    });
    events
}

fn is_end(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_by_q_by_escape_and_by_control_c_alone() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        assert!(is_end(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(is_end(&key(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(is_end(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!is_end(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
        assert!(!is_end(&Event::Resize(80, 25)));
    }
}
