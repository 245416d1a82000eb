//! `certs`: an authority of the cluster's own, and certificates by it.
//!
//! A file is written whole under another name, synced, and then linked to its own: nobody ever sees half of a key, and what
//! is there is not overwritten unless that is asked for. Keys are for their owner alone (mode 0600).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use leasehold::{AgentName, Certificate, Role, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use serde_json::{Value, json};

use crate::{
    args::{CertsArgs, CertsCommand, InitArgs, IssueArgs, ShowArgs},
    exit::{self, Failed},
    output::{self, Table},
    seam,
};

/// What the authority is called in what it signs. The same for each: which of them it was, its key says.
const AUTHORITY: &str = "leasehold certificate authority";
/// The longest name that X.509 has room for in the subject, in characters.
const SUBJECT_CHARS_MAX: usize = 64;
/// A certificate holds from so long ago on, for machines whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";

/// Carries out one of them.
pub(crate) fn certs(args: CertsArgs) -> Result<(), Failed> {
    match args.command {
        CertsCommand::Init(args) => init(&args),
        CertsCommand::Issue(args) => issue(&args),
        CertsCommand::Show(args) => show(&args),
    }
}

fn init(args: &InitArgs) -> Result<(), Failed> {
    fs::create_dir_all(&args.dir).map_err(|error| cannot("make the directory", &args.dir, &error))?;
    let (cert_at, key_at) = (args.dir.join(CA_CERT), args.dir.join(CA_KEY));
    for path in [&cert_at, &key_at] {
        if path.exists() {
            return Err(is_there(path));
        }
    }
    let key = new_key()?;
    let mut params = authority();
    date(&mut params, args.days);
    let cert = params.self_signed(&key).map_err(|error| cannot_sign(&error))?;
    // The key first: a certificate without one is of no use to anybody.
    write(&key_at, &key.serialize_pem(), 0o600, false)?;
    write(&cert_at, &cert.pem(), 0o644, false)?;
    output::line(&format!(
        "{}: give it to every agent and client\n{}: keep it away from them; who has it can make certificates",
        cert_at.display(),
        key_at.display()
    ))
}

fn issue(args: &IssueArgs) -> Result<(), Failed> {
    let read = |file: &str| {
        let path = args.dir.join(file);
        fs::read_to_string(&path).map_err(|error| {
            Failed::new(format!(
                "can't read {}: {error}; make an authority with `leasehold certs init --dir {}`",
                path.display(),
                args.dir.display()
            ))
        })
    };
    let (ca, ca_key) = (read(CA_CERT)?, read(CA_KEY)?);
    let ca_key = KeyPair::from_pem(&ca_key).map_err(|error| {
        Failed::new(format!(
            "{} is no key that can sign ({error}); give the directory that `leasehold certs init` has made",
            args.dir.join(CA_KEY).display()
        ))
    })?;
    let issuer = Issuer::new(authority(), ca_key);
    let role = Role::from(args.role);
    // All names are looked at before anything is written.
    let mut names = Vec::new();
    for name in &args.names {
        let name = AgentName::new(name).map_err(|error| Failed::with(exit::USAGE, error))?;
        let file = file_name(&name);
        if file.eq_ignore_ascii_case("ca") {
            return Err(Failed::with(
                exit::USAGE,
                "the files of the name \"ca\" are the authority's; choose another name",
            ));
        }
        let paths = ["crt", "key"].map(|end| args.dir.join(format!("{file}.{end}")));
        if let Some(path) = paths.iter().find(|path| !args.replace && path.exists()) {
            return Err(is_there(path));
        }
        names.push((name, paths));
    }
    for (name, [cert_at, key_at]) in names {
        let key = new_key()?;
        let params = bearer(role, &name, args.days)?;
        let cert = params.signed_by(&key, &issuer).map_err(|error| cannot_sign(&error))?.pem();
        let key = key.serialize_pem();
        // What an agent would say to it, before it is one's.
        let made = Tls::from_pem(ca.as_bytes(), cert.as_bytes(), key.as_bytes());
        let made = made.certificate().map_err(|error| {
            Failed::new(format!(
                "what was made can't be used: {error}; are {CA_CERT} and {CA_KEY} in {} of one authority?",
                args.dir.display()
            ))
        })?;
        write(&key_at, &key, 0o600, args.replace)?;
        write(&cert_at, &cert, 0o644, args.replace)?;
        output::line(&format!(
            "{}, {}: the {role} {name}, until {}",
            cert_at.display(),
            key_at.display(),
            output::time(made.expires)
        ))?;
    }
    Ok(())
}

/// The authority's form, but for its time; what is signed later needs its name alone.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn bearer(role: Role, name: &AgentName, days: u16) -> Result<CertificateParams, Failed> {
    let text = |text: String| text.try_into().map_err(|error: rcgen::Error| cannot_sign(&error));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // For other programs. Ours read the alternative names, where any name has room.
    if name.as_str().chars().count() <= SUBJECT_CHARS_MAX {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    params.subject_alt_names = vec![SanType::URI(text(Certificate::uri(role, name))?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role == Role::Member {
        params.subject_alt_names.push(SanType::DnsName(text(Certificate::MEMBER_HOST.to_owned())?));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    date(&mut params, days);
    Ok(params)
}

/// It holds for so many days from now on.
fn date(params: &mut CertificateParams, days: u16) {
    let now = Duration::from_secs(u64::try_from(seam::wall().timestamp()).unwrap_or(0));
    let at = |since: Duration| date_time_ymd(1970, 1, 1) + since;
    params.not_before = at(now.saturating_sub(BACKDATED));
    params.not_after = at(now.saturating_add(DAY * u32::from(days)));
}

fn new_key() -> Result<KeyPair, Failed> {
    KeyPair::generate().map_err(|error| Failed::new(format!("can't make a key: {error}")))
}

/// The name, with what a file's name can't have written as in a URI.
fn file_name(name: &AgentName) -> String {
    let uri = Certificate::uri(Role::Member, name);
    uri.rsplit_once('/').map_or_else(String::new, |(_, name)| name.to_owned())
}

fn write(path: &Path, text: &str, mode: u32, replace: bool) -> Result<(), Failed> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(new);
    let written = write_new(&new, text, mode)
        .and_then(|()| if replace { fs::rename(&new, path) } else { fs::hard_link(&new, path) });
    // A link stays; after a rename there is nothing.
    let _ = fs::remove_file(&new);
    let synced = written.and_then(|()| match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    });
    synced.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => is_there(path),
        _ => cannot("write", path, &error),
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn is_there(path: &Path) -> Failed {
    Failed::new(format!(
        "{} is there already, and stays as it is; choose another --dir, or say --replace to `issue`",
        path.display()
    ))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failed {
    Failed::new(format!("can't {what} {}: {error}; free the cause, and try again", path.display()))
}

fn cannot_sign(error: &rcgen::Error) -> Failed {
    Failed::new(format!("can't make the certificate: {error}"))
}

fn show(args: &ShowArgs) -> Result<(), Failed> {
    let mut paths = vec![args.path.clone()];
    if args.path.is_dir() {
        let items = fs::read_dir(&args.path).map_err(|error| cannot("read", &args.path, &error))?;
        paths = items.filter_map(Result::ok).map(|item| item.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|end| end == "crt"));
        paths.sort();
        if paths.is_empty() {
            return Err(Failed::new(format!("no file in {} ends in .crt; name one", args.path.display())));
        }
    }
    let mut table = Table::new(&["FILE", "ROLE", "NAME", "EXPIRES", "DAYS LEFT", "SHA-256"]);
    for path in &paths {
        let pem = fs::read(path).map_err(|error| cannot("read", path, &error))?;
        let file = path.display().to_string();
        for certificate in Certificate::read_pem(&file, &pem).map_err(Failed::new)? {
            if args.json {
                output::line(&in_json(&file, &certificate).to_string())?;
            } else {
                let (role, name) = bearer_of(&certificate);
                table.row([
                    file.clone(),
                    role.unwrap_or("?").to_owned(),
                    name.unwrap_or("").to_owned(),
                    output::time(certificate.expires).to_string(),
                    days_left(&certificate).to_string(),
                    certificate.fingerprint.clone(),
                ]);
            }
        }
    }
    if args.json { Ok(()) } else { table.print() }
}

/// Whole days; negative when it has expired.
fn days_left(certificate: &Certificate) -> i64 {
    certificate.expires.signed_duration_since(seam::wall()).num_seconds().div_euclid(24 * 60 * 60)
}

fn bearer_of(certificate: &Certificate) -> (Option<&str>, Option<&str>) {
    match &certificate.bearer {
        Some((role, name)) => (Some(role.as_str()), Some(name.as_str())),
        None if certificate.is_authority => (Some("authority"), None),
        None => (None, None),
    }
}

fn in_json(file: &str, certificate: &Certificate) -> Value {
    let (role, name) = bearer_of(certificate);
    json!({
        "file": file,
        "role": role,
        "name": name,
        "expires": output::time_ms(certificate.expires),
        "days_left": days_left(certificate),
        "fingerprint": certificate.fingerprint,
    })
}
