//! The report of a push (`gitprotocol-pack`, "Report Status"), written piece by piece.

use libgit::{RefName, RefNameError};
use libproto::pktline::{self, BAND_MAX, Band, FLUSH};
use libproto::refusal::Refusal;

use super::commands::{PushRequest, ReportedCommand};
use super::indexing::Outcome;
use super::one_line::one_line;

/// Size in bytes from which a piece of the report is written.
const PIECE: usize = 32 * 1024;
/// Game of Trees' client: it takes `ng` for a success, and fails on nothing but an `ERR` packet.
const GOT: &str = "got/";

/// What became of a push, command by command.
pub(super) struct Report {
    request: PushRequest,
    outcome: Outcome,
}

impl Report {
    pub(super) fn new(request: PushRequest, outcome: Outcome) -> Report {
        Report { request, outcome }
    }

    /// Why this command was refused; `None`: done.
    fn refusal(&self, at: usize, asked: &ReportedCommand) -> Option<Refusal> {
        if asked.funny {
            return Some(match RefName::parse_for_update(&asked.name) {
                Err(e @ (RefNameError::TooLong | RefNameError::ComponentTooLong)) => {
                    Refusal::Reference(e.to_string())
                }
                _ => Refusal::FunnyName,
            });
        }
        match (self.outcome.results.get(at), &self.outcome.unpack) {
            (Some(Some(Err(refusal))), _) => Some(refusal.clone()),
            (Some(Some(Ok(()))), None) => None,
            // What was said to be done is done, whatever happened afterwards.
            (Some(Some(Ok(()))), Some(_)) if self.outcome.broken => None,
            (_, Some(_)) if self.outcome.broken && self.outcome.begun => Some(Refusal::NoAnswer),
            (_, Some(_)) => Some(Refusal::Unpacker),
            (_, None) => Some(Refusal::NoAnswer),
        }
    }

    /// The text for the client's standard error: failures that no report can carry, and C gotd's
    /// words that sites look for there.
    pub(super) fn aside(&self) -> Option<Refusal> {
        let caps = &self.request.caps;
        let reports = caps.report_status || caps.report_status_v2;
        if let Some(unpack) = &self.outcome.unpack
            && (self.outcome.broken || !reports || !caps.side_band)
        {
            return Some(unpack.clone());
        }
        let mut refusals =
            self.request.commands.iter().enumerate().filter_map(|(at, asked)| {
                Some((String::from_utf8_lossy(&asked.name), self.refusal(at, asked)?))
            });
        let (name, refusal) = refusals.find(|(_, refusal)| !reports || refusal.is_protected())?;
        Some(refusal.about(&one_line(&name)))
    }

    /// Whether this refusal is told by an `ERR` packet, as C gotd does.
    fn told_by_error(&self, refusal: &Refusal) -> bool {
        refusal.is_protected() && self.request.caps.agent.as_deref().is_some_and(|a| a.starts_with(GOT))
    }

    /// The packet that ends the report for Game of Trees' client where a protected reference was
    /// refused. It comes last, for the client reads no further.
    fn error(&self) -> Option<String> {
        self.request.commands.iter().enumerate().find_map(|(at, asked)| {
            let refusal = self.refusal(at, asked).filter(|refusal| self.told_by_error(refusal))?;
            Some(format!("ERR {}", one_line(&refusal.to_string())))
        })
    }

    /// The bytes for the client.
    pub(super) fn lines(self) -> Lines {
        let caps = &self.request.caps;
        let state =
            if caps.report_status || caps.report_status_v2 { ReportState::Unpack } else { ReportState::End };
        Lines { state, report: self }
    }
}

#[derive(Clone, Copy)]
enum ReportState {
    /// The pack's line is next.
    Unpack,
    /// The line of this command is next.
    Command(usize),
    /// The end of the side band is next.
    End,
    /// Nothing is left.
    Over,
}

/// A report on its way.
pub(super) struct Lines {
    report: Report,
    state: ReportState,
}

impl Lines {
    /// Appends the next piece; `false` if there was none left.
    pub(super) fn more(&mut self, out: &mut Vec<u8>) -> bool {
        if matches!(self.state, ReportState::Over) {
            return false;
        }
        let side_band = self.report.request.caps.side_band;
        let mut piece = Vec::new();
        while piece.len() < PIECE && self.line(&mut piece) {}
        if side_band {
            pktline::write_band(out, Band::Data, &piece, BAND_MAX);
        } else {
            out.append(&mut piece);
        }
        if matches!(self.state, ReportState::End) {
            if side_band {
                out.extend_from_slice(FLUSH);
            }
            self.state = ReportState::Over;
        }
        true
    }

    /// Appends one packet of the report; `false` if there was none left.
    fn line(&mut self, piece: &mut Vec<u8>) -> bool {
        let report = &self.report;
        let at = match self.state {
            ReportState::Unpack => {
                let unpack = report.outcome.unpack.as_ref();
                let unpack = unpack.map_or_else(|| "ok".to_owned(), |refusal| one_line(&refusal.to_string()));
                packet(piece, &[b"unpack ", unpack.as_bytes()]);
                self.state = ReportState::Command(0);
                return true;
            }
            ReportState::Command(at) => at,
            ReportState::End | ReportState::Over => return false,
        };
        let Some(asked) = report.request.commands.get(at) else {
            if let Some(error) = report.error() {
                pktline::write(piece, error.as_bytes())
                    .expect("a name and a reason are far below the limit of a packet");
            }
            piece.extend_from_slice(FLUSH);
            self.state = ReportState::End;
            return true;
        };
        match report.refusal(at, asked) {
            None => packet(piece, &[b"ok ", &asked.name]),
            Some(refusal) if report.told_by_error(&refusal) => {}
            Some(refusal) => {
                packet(piece, &[b"ng ", &asked.name, b" ", one_line(&refusal.to_string()).as_bytes()]);
            }
        }
        self.state = ReportState::Command(at + 1);
        true
    }
}

fn packet(piece: &mut Vec<u8>, words: &[&[u8]]) {
    let line = [&words.concat(), b"\n".as_slice()].concat();
    pktline::write(piece, &line).expect("a name and a reason are far below the limit of a packet");
}
