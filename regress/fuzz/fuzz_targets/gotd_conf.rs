//! gotd.conf, gotd-secrets.conf and the batches in which a configuration travels: no text and no
//! bytes may do more than be refused, and what is accepted prints, parses and travels to the same.
#![no_main]

use gotd::conf::items::{Assembler, Audience, send};
use gotd::conf::print::print;
use gotd::conf::source::Texts;
use gotd::conf::{parse, secrets};
use libfuzzer_sys::fuzz_target;
use libproto::codec::{self, CodecError};
use libproto::message::rules::PushRules;

fuzz_target!(|data: &[u8]| {
    let _ = secrets::parse("s", data);
    let _ = codec::decode::<PushRules>(data);
    let _ = Assembler::default().item(data);
    let mut texts = Texts::one("/f", data);
    texts.0.insert(
        "/k".to_owned(),
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ".to_vec(),
    );
    let parsed = parse("/f", &mut texts);
    for complaint in parsed.errors.iter().chain(&parsed.warnings) {
        assert!(!complaint.to_string().is_empty());
    }
    if !parsed.errors.is_empty() {
        return;
    }
    let text = print(&parsed.config);
    let again = parse("/f", &mut Texts::one("/f", text.clone()));
    assert_eq!(again.errors, [], "{text}");
    assert_eq!(print(&again.config), text);
    // Names in another spelling are looked up before a configuration travels.
    let mut config = parsed.config;
    config.odd_names.clear();
    let mut assembler = Assembler::default();
    let mut whole = None;
    let sent = send(&config, Audience::Notify, &mut |batch| -> Result<(), CodecError> {
        whole = assembler.item(&batch).expect("what was sent is taken");
        Ok(())
    });
    assert!(sent.is_ok());
    assert_eq!(whole, Some(config));
});
