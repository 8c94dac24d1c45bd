//! People who share one Unix account, each with keys of their own: sshd asks gotctl, and gotd
//! believes the answer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use regress::raw::Connection;
use regress::site::present_user;
use regress::sshd::{Account, make_account};
use regress::{Done, Setup, Site, Sshd, binaries, history, is_root, run};

/// A directory of root's that sshd trusts, for the programs that it runs.
struct Programs(PathBuf);

impl Programs {
    fn new() -> Programs {
        let dir = PathBuf::from(format!("/run/gotd-regress.{}", std::process::id()));
        fs::create_dir_all(&dir).expect("makes a directory");
        for name in ["gotctl", "gotsh"] {
            fs::copy(binaries().join(name), dir.join(name)).expect("copies");
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("changes a mode");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("changes a mode");
        Programs(dir)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a key pair and returns its public half.
fn key(site: &Site, name: &str) -> String {
    let file = site.path("ssh.d").join(name);
    let mut keygen = site.command("ssh-keygen");
    run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&file), b"", 30).good();
    fs::read_to_string(file.with_extension("pub")).expect("reads").trim().to_owned()
}

#[test]
fn two_people_a_deploy_key_and_a_certificate_through_sshd() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    if !Sshd::available() {
        return;
    }
    let site = Site::new();
    let programs = Programs::new();
    let account = Account(format!("gotda{}", std::process::id() % 100_000));
    fs::create_dir(site.path("ssh.d")).expect("makes a directory");
    make_account(&account.0, "/bin/sh".as_ref(), &site.path("home"));
    for name in ["shared.git", "alices.git", "web.git"] {
        history::repository(&site, name, 3, "sha1");
    }
    let keys: Vec<String> =
        ["alice", "bob", "robot", "ca", "carol", "stranger"].map(|n| key(&site, n)).into();
    // Carol has a certificate and no key of her own.
    let mut sign = site.command("ssh-keygen");
    sign.args(["-q", "-s"]).arg(site.path("ssh.d/ca")).args(["-I", "carol's", "-n", "carol@example.org"]);
    run(sign.arg(site.path("ssh.d/carol.pub")), b"", 30).good();
    fs::write(site.path("bobs.keys"), format!("# Bob's\n{}\n", keys[1])).expect("writes");
    let block = |name: &str, rules: &str| {
        let path = site.repository(&format!("{name}.git"));
        format!("repository \"{name}\" {{\n\tpath \"{}\"\n{rules}}}\n", path.display())
    };
    let conf = format!(
        "{}account {} {{\n\tuser alice key \"{}\"\n\tuser bob key file \"{}\"\n\tuser robot key \"{}\"\n\
         \tuser carol principal carol@example.org\n}}\ngroup writers {{ alice bob }}\n\
         connection limit user \"{me}\" 32\n{}{}{}",
        site.head(),
        account.0,
        keys[0],
        site.path("bobs.keys").display(),
        keys[2],
        block("shared", "\tpermit ro carol\n\tpermit rw :writers\n"),
        block("alices", "\tpermit rw alice\n"),
        block("web", "\tpermit ro robot\n\tpermit rw :writers\n"),
        me = present_user()
    );
    let mut daemon = site.start_with(&conf);
    let place: &'static str = programs.0.to_string_lossy().into_owned().leak();
    let mut sshd = Sshd::start(&site, Setup::KeysCommand(place), None);
    let as_user = |sshd: &Sshd, who: &str, arguments: &[&str]| -> Done {
        let ssh = format!("{} -l {} -i {}", sshd.command, account.0, site.path("ssh.d").join(who).display());
        let mut git = site.command("git");
        run(git.env("GIT_SSH_COMMAND", ssh).args(arguments), b"", 60)
    };
    // Alice and Bob are two people.
    let work = site.clone_path("work").to_string_lossy().into_owned();
    as_user(&sshd, "alice", &["clone", "-q", "gotd:shared", &work]).good();
    as_user(&sshd, "alice", &["-C", &work, "push", "-q", "gotd:shared", "main:refs/heads/from-alice"]).good();
    as_user(&sshd, "bob", &["-C", &work, "push", "-q", "gotd:shared", "main:refs/heads/from-bob"]).good();
    daemon.logged(&["reference", &format!("who={}/alice", account.0), "from-alice"]);
    daemon.logged(&["reference", &format!("who={}/bob", account.0), "from-bob"]);
    as_user(&sshd, "alice", &["ls-remote", "gotd:alices"]).good();
    as_user(&sshd, "bob", &["ls-remote", "gotd:alices"]).bad("no git repository found");
    // A deploy key reads one repository.
    as_user(&sshd, "robot", &["ls-remote", "gotd:web"]).good();
    as_user(&sshd, "robot", &["-C", &work, "push", "gotd:web", "main:x"]).bad("web: Permission denied");
    as_user(&sshd, "robot", &["ls-remote", "gotd:shared"]).bad("no git repository found");
    // A certificate.
    as_user(&sshd, "carol", &["ls-remote", "gotd:shared"]).good();
    as_user(&sshd, "carol", &["-C", &work, "push", "gotd:shared", "main:x"]).bad("shared: Permission denied");
    daemon.logged(&["session", &format!("who={}/carol", account.0)]);
    // Nobody else comes in.
    as_user(&sshd, "stranger", &["ls-remote", "gotd:shared"]).bad("Permission denied (publickey)");
    // A client cannot say whose user it is: the forced command is the only one.
    let target = format!("{}@gotd", account.0);
    let ssh = |who: &str, line: &str| {
        let key = site.path("ssh.d").join(who).to_string_lossy().into_owned();
        run(&mut sshd.ssh(&site, ["-i", &key, &target, line]), b"0000", 30)
    };
    // Who logs in with no command is told what there is for them, and nobody is told more.
    let greet = |who: &str| {
        let key = site.path("ssh.d").join(who).to_string_lossy().into_owned();
        run(&mut sshd.ssh(&site, ["-i", &key, &target]), b"", 30).good().text()
    };
    let hello = |who: &str| format!("hello {}/{who}, this is gotd\n", account.0);
    assert_eq!(
        greet("alice"),
        hello("alice") + "there are 3 repositories for you:\nrw\talices\nrw\tshared\nrw\tweb\n"
    );
    assert_eq!(greet("robot"), hello("robot") + "there is one repository for you:\nro\tweb\n");
    assert_eq!(ssh("carol", "list").good().text(), "ro\tshared\n");
    ssh("bob", "info alices").bad("no git repository found");
    assert!(ssh("alice", "info alices").good().text().contains("rights\trw\nhead\tmain\n"));
    ssh("bob", "delete alices").bad("usage: ");
    for line in [
        "gotsh --user alice",
        "--user alice git-upload-pack 'alices'",
        "git-upload-pack --user alice 'alices'",
        "git-upload-pack 'alices' --user alice",
        "sh -c id",
    ] {
        let done = ssh("bob", line);
        assert_ne!(done.status, 0, "{line}: {}", done.text());
        assert!(!done.text().contains("refs/heads/"), "{line}: {}", done.text());
    }
    // The account itself is nobody, and nobody else is believed.
    let id = nix::unistd::User::from_name(&account.0).ok().flatten().expect("it was made");
    let gotsh = |uid: u32, user: Option<&str>, line: &str| {
        let mut command = site.command("setpriv");
        command.args(["--reuid", &uid.to_string(), "--regid", &id.gid.to_string(), "--clear-groups"]);
        command.arg(programs.0.join("gotsh")).env("GOTD_UNIX_SOCKET", site.socket());
        command.env("SSH_ORIGINAL_COMMAND", line);
        run(command.args(user.iter().flat_map(|user| ["--user", user])), b"0000", 20)
    };
    gotsh(id.uid.as_raw(), Some("alice"), "git-upload-pack 'alices'").good();
    gotsh(id.uid.as_raw(), None, "git-upload-pack 'alices'").bad("no git repository found");
    gotsh(id.uid.as_raw() + 1, Some("alice"), "git-upload-pack 'alices'").bad("no such user of this account");
    gotsh(id.uid.as_raw(), Some("mallory"), "git-upload-pack 'alices'").bad("no such user of this account");
    gotsh(id.uid.as_raw(), Some("../alice"), "git-upload-pack 'alices'").bad("not a user name");
    let c = run(
        site.command(programs.0.join("gotsh"))
            .args(["-c", "gotsh --user alice"])
            .env("GOTD_UNIX_SOCKET", site.socket()),
        b"",
        20,
    );
    assert_ne!(c.status, 0);
    // A key that is taken away lets nobody in, from the next login on.
    fs::write(
        site.path("gotd.conf"),
        conf.replace(&format!("\tuser robot key \"{}\"\n", keys[2]), "\tuser robot {\n\t}\n"),
    )
    .expect("writes");
    daemon.gotctl(&["reload"]).good();
    as_user(&sshd, "robot", &["ls-remote", "gotd:web"]).bad("Permission denied (publickey)");
    as_user(&sshd, "alice", &["ls-remote", "gotd:web"]).good();
    daemon.assert_serves();
    drop(Connection::open(&site.socket()));
    sshd.command.clear();
}

/// Limits count per person: one who has all connections does not take another's.
#[test]
fn a_user_of_an_account_has_connections_of_their_own() {
    let site = Site::new();
    let original = history::bulky(&site, "r.git", 3);
    let tip = history::tip(&site, &original);
    let daemon = site.start_with(&format!(
        "{}account \"{}\" {{\n\tuser alice principal alice\n\tuser bob principal bob\n}}\n\
         connection limit user alice 1\nrepository r {{\n\tpath \"{}\"\n\tpermit ro alice\n\tpermit ro bob\n}}\n",
        site.head(),
        present_user(),
        original.display()
    ));
    let ask = |user: &str| {
        let mut command = site.command(binaries().join("gotsh"));
        command.env("GOTD_UNIX_SOCKET", site.socket()).env("SSH_ORIGINAL_COMMAND", "git-upload-pack 'r'");
        run(command.args(["--user", user]), b"0000", 20)
    };
    ask("alice").good();
    let mut first = regress::raw::Session::fetch_as(&site.socket(), "r", 2, "alice");
    first.begin_clone(&tip, 1000);
    ask("alice").bad("connection limit exceeded (connection limit user)");
    // It is counted when the session is over, which the client may see first.
    assert!(
        regress::run::wait_until(10.0, || daemon.reached("connection limit user") == 1),
        "{}",
        daemon.log()
    );
    ask("bob").good();
    daemon.logged(&["result=refused", "/alice", "connection limit exceeded"]);
    first.close();
    first.read_to_end(20);
    assert!(regress::run::wait_until(10.0, || ask("alice").status == 0));
}

/// One key among ten thousand users.
#[test]
fn ten_thousand_keys_are_answered_soon() {
    let site = Site::new();
    let base64 = |n: usize| {
        // A key blob of kind ssh-ed25519 whose last bytes are a number.
        let digits = format!("{n:08}");
        let tail: String = digits.chars().map(|c| format!("{}{c}", 'A')).collect();
        format!("AAAAC3NzaC1lZDI1NTE5AAAAI{}{tail}", "A".repeat(27))
    };
    let users: String =
        (0..10_000).map(|n| format!("\tuser user{n} key \"ssh-ed25519 {}\"\n", base64(n))).collect();
    fs::write(
        site.path("gotd.conf"),
        format!("account git {{\n{users}}}\nrepository r {{\n\tpath \"/r\"\n}}\n"),
    )
    .expect("writes");
    let ask = |n: usize| {
        let mut command = site.command(binaries().join("gotctl"));
        command.args(["authorized-keys", "--gotsh", "/bin/gotsh", "-c"]).arg(site.path("gotd.conf"));
        run(command.args(["git", "ssh-ed25519", &base64(n)]), b"", 20).good().text()
    };
    let mut fastest = std::time::Duration::MAX;
    for n in [0, 4711, 9999, 5, 6] {
        let start = std::time::Instant::now();
        let line = ask(n);
        fastest = fastest.min(start.elapsed());
        assert_eq!(
            line,
            format!("restrict,command=\"/bin/gotsh --user user{n}\" ssh-ed25519 {}\n", base64(n))
        );
    }
    assert_eq!(ask(10_001), "");
    eprintln!("one of 10,000 keys: {fastest:?}");
    // Far more than it takes, for a machine that is busy.
    assert!(fastest < std::time::Duration::from_secs(5), "{fastest:?}");
}
