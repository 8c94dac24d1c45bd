//! The findings that gotd.conf may ignore are those that the check of pushed objects can let
//! through.

use gotd::conf::repository_blocks::FSCK_KINDS;
use librepo::receive::check::Message;

#[test]
fn every_finding_that_may_be_ignored_is_known_to_the_check() {
    for kind in FSCK_KINDS {
        let message = Message::from_name(kind);
        assert!(message.is_some_and(|m| m.tolerable() && m.name() == *kind), "{kind}");
    }
}
