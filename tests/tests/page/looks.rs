//! Whether a page can be read: by eye in both colour schemes and on a narrow screen, and by
//! a screen reader.

use std::path::Path;

use anyhow::ensure;
use arx_tests::browser::{Browser, Looks};

/// Where pictures are put, if anywhere.
const PICTURES: &str = "ARX_PAGE_PICTURES";

const WIDE: u32 = 1280;
const NARROW: u32 = 400;

/// What is missing from a page's structure.
const STRUCTURE: &str = include_str!("structure.js");

/// Texts whose colour is too near to what is behind them (WCAG 2.2, 1.4.3: 4.5 to 1).
const CONTRAST: &str = include_str!("contrast.js");

/// The page that is open has its structure, enough contrast, and no need to scroll aside.
pub(crate) async fn is_in_order(browser: &mut Browser, name: &str) -> anyhow::Result<()> {
    let wrong = browser.value(STRUCTURE).await?;
    ensure!(wrong == "", "{name}: {wrong}");
    for (width, dark) in [(WIDE, false), (WIDE, true), (NARROW, false), (NARROW, true)] {
        let looks = Looks {
            width,
            height: 900,
            dark,
        };
        browser.look(looks).await?;
        let wrong = browser.value(CONTRAST).await?;
        ensure!(wrong == "", "{name}, {looks:?}: {wrong}");
        let wide = browser
            .value("document.documentElement.scrollWidth")
            .await?;
        ensure!(
            wide.as_u64() <= Some(width.into()),
            "{name}, {looks:?}: {wide} px wide"
        );
        let scheme = if dark { "dark" } else { "light" };
        picture(browser, &format!("{name}-{width}-{scheme}")).await?;
    }
    Ok(())
}

/// A picture of the page for whoever wants to see it.
pub(crate) async fn picture(browser: &mut Browser, name: &str) -> anyhow::Result<()> {
    match std::env::var_os(PICTURES) {
        Some(folder) => {
            browser
                .photograph(&Path::new(&folder).join(format!("{name}.png")))
                .await
        }
        None => Ok(()),
    }
}
