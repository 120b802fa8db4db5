//! A stand-in for the guest program: loads the modules, mounts the base, runs one command in it.
//! Compiled by the boot test into a static program.

use std::{
    ffi::{CString, c_char, c_int, c_long, c_ulong, c_void},
    fs::{self, File},
    io, os::fd::AsRawFd as _,
    process::Command,
    ptr,
};

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn reboot(command: c_int) -> c_int;
}

const SYS_FINIT_MODULE: c_long = 313;
const MS_RDONLY: c_ulong = 1;
const RB_AUTOBOOT: c_int = 0x0123_4567;

fn main() {
    match run() {
        Ok(()) => println!("guest done"),
        Err(error) => println!("guest failed: {error}"),
    }
    // SAFETY: `reboot` takes no pointers.
    unsafe { reboot(RB_AUTOBOOT) };
}

fn run() -> io::Result<()> {
    for folder in ["/dev", "/proc", "/base"] {
        fs::create_dir_all(folder)?;
    }
    mount_one("devtmpfs", "/dev", "devtmpfs", 0)?;
    mount_one("proc", "/proc", "proc", 0)?;
    for name in fs::read_to_string("/modules/modules.order")?.lines() {
        let file = File::open(format!("/modules/{name}"))?;
        // SAFETY: the descriptor is open, and the parameters are an empty C string.
        let loaded = unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
        if loaded != 0 {
            return Err(io::Error::other(format!("{name}: {}", io::Error::last_os_error())));
        }
        println!("loaded {name}");
    }
    mount_one("/dev/vda", "/base", "squashfs", MS_RDONLY)?;
    mount_one("proc", "/base/proc", "proc", 0)?;
    std::os::unix::fs::chroot("/base")?;
    std::env::set_current_dir("/")?;
    let script = "echo in the base; ls -ld /tmp /work; ls /usr/bin | wc -l; md5sum /bin/busybox; id -u";
    let status = Command::new("/bin/sh").args(["-c", script]).env("PATH", "/bin").status()?;
    println!("command {status}");
    Ok(())
}

fn mount_one(source: &str, target: &str, kind: &str, flags: c_ulong) -> io::Result<()> {
    let [source, target, kind] = [source, target, kind].map(|text| CString::new(text).unwrap());
    // SAFETY: three C strings that live through the call, and no data.
    let result =
        unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null()) };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("mount {target:?}: {}", io::Error::last_os_error())))
}
