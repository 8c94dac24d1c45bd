//! `limit memory total` is nobody's for the asking.
//!
//! Twelve bytes of a pack's header claimed twenty million objects: two gigabytes were reserved for
//! them, all that a small machine has, and kept as long as sixty objects of three bytes came each
//! second. Nobody else could clone or push. Now memory is reserved for objects that have come, and
//! who holds more than his share and stalls is ended when others wait.

use std::time::{Duration, Instant};

use libproto::message::client::ClientKind;
use regress::raw::{self, Connection, Session};
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Daemon, Done, Site, history, pkt, run};

/// Sent as an object of a pack: a blob of three bytes.
const BLOB: &[u8] = b"\x33\x78\x9c\x4b\x4c\x4a\x06\x00\x02\x4d\x01\x27";

struct Place {
    site: Site,
    daemon: Daemon,
}

fn start(limits: &str) -> Place {
    let site = Site::new();
    history::bulky(&site, "bulk.git", 12);
    let daemon = site.start_with(&format!(
        "{}account \"{}\" {{\n\tuser alice principal alice\n\tuser bob principal bob\n}}\n{limits}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit rw alice\n\tpermit ro bob\n}}\n",
        site.head(),
        present_user(),
        site.path("repositories").display(),
    ));
    site.ssh_as("bob");
    Place { site, daemon }
}

impl Place {
    /// A push of alice that claims twenty million objects and has sent one.
    fn claims_much(&self) -> Session {
        let connection = Connection::open(&self.site.socket());
        connection.greet_as(ClientKind::Git, Some("alice"));
        let mut push = Session::ask(connection, &raw::push_request("bulk.git"));
        push.read_to_flush();
        let command = format!("{} {} refs/heads/x\0report-status\n", "0".repeat(40), "1".repeat(40));
        assert!(push.write(&pkt::lines([command])));
        let header = [b"PACK".as_slice(), &2_u32.to_be_bytes(), &20_000_000_u32.to_be_bytes(), BLOB].concat();
        assert!(push.write(&header));
        push
    }

    fn bob_clones(&self) -> Done {
        let mut command = self.site.command("git");
        command.env("GIT_SSH_COMMAND", self.site.path("ssh-bob"));
        let path = self.site.clone_path("bob");
        run(command.args(["clone", "-q", "--mirror", "gotd:bulk.git"]).arg(path), b"", 60)
    }
}

#[test]
fn a_number_in_a_header_reserves_no_memory() {
    let place = start("limit memory total 256M");
    let mut push = place.claims_much();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(push.write(&BLOB.repeat(60)), "{}", place.daemon.log());
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(place.daemon.metric("gotd_memory_reserved_bytes"), 72 << 20, "{}", place.daemon.log());
    place.bob_clones().good();
    // Who sends is not ended for it.
    assert!(push.write(BLOB), "{}", place.daemon.log());
}

#[test]
fn a_user_who_stalls_beyond_his_share_is_ended_when_others_wait() {
    let place = start("limit memory total 78M\nlimit packs queue timeout 30s");
    let _push = place.claims_much();
    let stalled = || place.daemon.metric("gotd_pushes_stalled") == 1;
    assert!(wait_until(20.0, stalled), "{}", place.daemon.log());
    place.bob_clones().good();
    place.daemon.logged(&["a push that does not go on (limit memory total)"]);
}
