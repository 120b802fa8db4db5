/* What a workload can try to end with another code than its own, or to take PID 1 along. Each
 * attack prints one line; `refused: ` is how every one of them has to begin. The real code is 41. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

static void attack(const char *name, int succeeded)
{
	printf("%s: %s (%s)\n", succeeded ? "SUCCEEDED" : "refused", name, strerror(errno));
	fflush(stdout);
}

static int opens(const char *path, int flags)
{
	int file = open(path, flags);
	if (file >= 0)
		close(file);
	return file >= 0;
}

/* Whether a file tells the word; one that cannot be read tells nothing. */
static int tells(const char *path, const char *word)
{
	static char text[65536];
	int file = open(path, O_RDONLY);
	ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
	if (file >= 0)
		close(file);
	if (length < 0)
		return 0;
	for (ssize_t at = 0; at + (ssize_t)strlen(word) <= length; at++)
		if (memcmp(text + at, word, strlen(word)) == 0)
			return 1;
	return 0;
}

static int vsock(void)
{
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 9010 };
	int end = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (end < 0)
		return 0;
	return connect(end, (struct sockaddr *)&host, sizeof host) == 0 || errno != EAFNOSUPPORT;
}

static int device(const char *name, mode_t kind, int major_number, int minor_number)
{
	char path[64];
	snprintf(path, sizeof path, "/tmp/%s", name);
	if (mknod(path, kind | 0600, makedev(major_number, minor_number)) != 0)
		return 0;
	return opens(path, O_RDWR);
}

static int memory_of_init(void)
{
	char byte = 0;
	struct iovec ours = { &byte, 1 }, theirs = { (void *)0x400000, 1 };
	return syscall(SYS_process_vm_readv, 1, &ours, 1, &theirs, 1, 0) == 1;
}

int main(void)
{
	static const unsigned char zero_exit[36] = { 0 };

	attack("a key on the kernel command line", tells("/proc/cmdline", "exit_hmac_key"));
	attack("a key in the environment of init", tells("/proc/1/environ", "key"));
	attack("the bridge over vsock", vsock());
	attack("a raw vsock", socket(AF_VSOCK, SOCK_DGRAM, 0) >= 0);
	attack("the bridge device", opens("/dev/vport0p1", O_RDWR) || opens("/dev/vport1p1", O_RDWR));
	attack("the bridge device under another name", opens("/dev/virtio-ports/cellos.bridge", O_RDWR));
	attack("a node for the bridge device", device("vport", S_IFCHR, 245, 1));
	attack("a node for the root disk", device("vda", S_IFBLK, 254, 0));
	attack("a node for kernel memory", device("mem", S_IFCHR, 1, 1));
	attack("the console", opens("/dev/console", O_RDWR) || opens("/dev/ttyS0", O_RDWR));
	attack("memory of init", opens("/proc/1/mem", O_RDONLY) || memory_of_init());
	attack("tracing init", ptrace(PTRACE_ATTACH, 1, 0, 0) == 0);
	attack("descriptors of init", opens("/proc/1/fd/3", O_RDONLY) || opens("/proc/1/fd/4", O_RDONLY));
	attack("stealing a descriptor of init", syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, 1, 0), 3, 0) >= 0);
	kill(1, SIGKILL);
	attack("killing init", kill(1, 0) != 0 && errno == ESRCH);
	attack("resetting the machine", reboot(LINUX_REBOOT_CMD_RESTART) == 0);
	attack("crashing the kernel by sysrq", opens("/proc/sysrq-trigger", O_WRONLY));
	attack("the keyboard controller's reset line", ioperm(0x64, 1, 1) == 0 || iopl(3) == 0);
	attack("a kernel module", syscall(SYS_init_module, zero_exit, sizeof zero_exit, "") == 0);
	attack("another kernel", syscall(SYS_kexec_load, 0, 0, 0, 0) == 0);
	attack("mounting devices", mount("devtmpfs", "/tmp", "devtmpfs", 0, "") == 0);
	attack("a namespace of its own", syscall(SYS_unshare, 0x10000000) == 0);
	attack("the control group", opens("/sys/fs/cgroup/cgroup.procs", O_WRONLY));
	attack("the kernel's log", opens("/dev/kmsg", O_WRONLY));
	return 41;
}
