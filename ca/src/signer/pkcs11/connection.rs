//! A loaded module, and a session with each token that is used: opened on demand, and again
//! from the start whenever something was not as expected.

use std::path::PathBuf;

use arx_daemon::config::secret_file;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use crate::signer::SignerError;
use crate::signer::options::Pkcs11 as Options;

/// What one thread has of a module.
#[derive(Debug)]
pub(super) struct Loaded {
    path: PathBuf,
    context: Option<Pkcs11>,
    session: Option<(Options, Connected)>,
    refused: Option<Refused>,
}

/// A session with a token, logged in.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) session: Session,
    pub(super) context: Pkcs11,
    pub(super) slot: Slot,
    /// The token's label.
    pub(super) token: String,
    pub(super) mechanisms: Vec<MechanismType>,
}

/// A PIN that a token has refused. It is not tried again: tokens lock after some tries.
struct Refused {
    token: String,
    pin: Zeroizing<Vec<u8>>,
    reason: String,
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refused({})", self.token)
    }
}

/// Why something was not done with a token.
#[derive(Debug)]
pub(super) enum Failure {
    /// The module says so.
    Module(Error),
    /// What was found is not what it should be.
    Signer(SignerError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl From<SignerError> for Failure {
    fn from(error: SignerError) -> Self {
        Self::Signer(error)
    }
}

impl Failure {
    fn told(self, options: &Options) -> SignerError {
        match self {
            Self::Signer(error) => error,
            Self::Module(error) => unreachable(options, said(&error)),
        }
    }
}

/// What a module has said, without the standard's explanation.
fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function} has answered {code:?}"),
        Error::LibraryLoading(error) => format!("the module cannot be loaded ({error})"),
        other => other.to_string(),
    }
}

fn unreachable(options: &Options, reason: impl Into<String>) -> SignerError {
    SignerError::Unreachable {
        custody: options.custody(),
        reason: reason.into(),
    }
}

fn pin(options: &Options, reason: impl Into<String>) -> SignerError {
    SignerError::Pin {
        custody: options.custody(),
        reason: reason.into(),
    }
}

impl Loaded {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            context: None,
            session: None,
            refused: None,
        }
    }

    /// Does `work` in a session. One from before may be of a token that was taken out
    /// meanwhile, so what fails in it is tried once more in a new one.
    pub(super) fn with_session<T>(
        &mut self,
        options: &Options,
        work: impl Fn(&Connected) -> Result<T, Failure>,
    ) -> Result<T, SignerError> {
        let used = self.session.as_ref().is_some_and(|(of, _)| of == options);
        let mut outcome = self.connected(options).and_then(&work);
        if outcome.is_err() && used {
            self.reset();
            outcome = self.connected(options).and_then(&work);
        }
        outcome.map_err(|failure| {
            self.reset();
            failure.told(options)
        })
    }

    /// Forgets sessions and module, so that the next call begins anew: many modules see a token
    /// that has come back only then.
    pub(super) fn reset(&mut self) {
        self.session = None;
        if let Some(context) = self.context.take()
            && let Err(error) = context.finalize()
        {
            tracing::debug!(module = %self.path.display(), error = said(&error), "a PKCS#11 module could not be finalised");
        }
    }

    fn connected(&mut self, options: &Options) -> Result<&Connected, Failure> {
        if self.session.as_ref().is_none_or(|(of, _)| of != options) {
            self.session = None;
            let connected = self.connect(options)?;
            self.session = Some((options.clone(), connected));
        }
        let session = self.session.as_ref();
        Ok(&session.expect("just made, if it was not there").1)
    }

    fn connect(&mut self, options: &Options) -> Result<Connected, Failure> {
        let context = match &self.context {
            Some(context) => context.clone(),
            None => {
                let context = Pkcs11::new(&self.path)?;
                match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                    // By a thread of ours that could not finalise it.
                    Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                    Err(error) => return Err(error.into()),
                }
                self.context = Some(context.clone());
                context
            }
        };
        let (slot, token) = find_token(&context, options)?;
        let session = context.open_ro_session(slot)?;
        if token.login_required() {
            self.log_in(&session, &token, options)?;
        }
        let mechanisms = context.get_mechanism_list(slot)?;
        Ok(Connected {
            session,
            slot,
            token: token.label().to_owned(),
            mechanisms,
            context,
        })
    }

    fn log_in(
        &mut self,
        session: &Session,
        token: &TokenInfo,
        options: &Options,
    ) -> Result<(), Failure> {
        let secret = secret_file(&options.pin_file)
            .map_err(|error| pin(options, format!("the PIN cannot be read: {error}")))?;
        let secret: Zeroizing<Vec<u8>> = Zeroizing::new(secret.trim_ascii_end().to_vec());
        if let Some(refused) = &self.refused
            && refused.token == token.serial_number()
            && refused.pin == secret
        {
            return Err(pin(options, refused.reason.clone()).into());
        }
        if token.user_pin_locked() {
            return Err(pin(
                options,
                "the token has locked it: unlock it by the token's own tool",
            )
            .into());
        }
        if token.user_pin_final_try() {
            let reason = "one more wrong PIN would lock the token, so none is tried: log in once by \
                          the token's own tool, which shows that the PIN is right";
            return Err(pin(options, reason).into());
        }
        let raw = RawAuthPin::new(Box::new(secret.to_vec()));
        match session.login_with_raw(UserType::User, &raw) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.refused = None;
                Ok(())
            }
            Err(Error::Pkcs11(
                code @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked),
                _,
            )) => {
                let reason = format!(
                    "the token does not take the one in {} ({code:?}), and it is not tried again \
                     before that file has changed: write the right one there",
                    options.pin_file.display()
                );
                self.refused = Some(Refused {
                    token: token.serial_number().to_owned(),
                    pin: secret,
                    reason: reason.clone(),
                });
                Err(pin(options, reason).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The slot that has the configured token in it.
fn find_token(context: &Pkcs11, options: &Options) -> Result<(Slot, TokenInfo), Failure> {
    let mut found = Vec::new();
    for slot in context.get_slots_with_initialized_token()? {
        if options.slot.is_some_and(|wanted| wanted != slot.id()) {
            continue;
        }
        let token = context.get_token_info(slot)?;
        let label = options.token_label.as_deref();
        if label.is_none_or(|label| label == token.label()) {
            found.push((slot, token));
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(unreachable(
            options,
            "there is no such token: see whether it is plugged in",
        )
        .into()),
        many => {
            let reason = format!("{many} tokens are called that: name the slot, too");
            Err(unreachable(options, reason).into())
        }
    }
}
