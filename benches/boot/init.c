/*
 * The least that an init can be which does what moored does from the kernel's start of it to a container's first instruction: the same mounts,
 * one execution of itself from a sealed memfd, the same processes (a child that sets the machine up, a keeper, a supervisor, a starter, the
 * container), the same namespaces, cgroup and mounts for it. No files are read, nothing is decided, checked, watched, logged or kept, and there
 * is no seccomp filter. An error ends it.
 *
 * One program, by the name that it is called: init, keeper, supervisor; and stamp, the container's, which is the same under moored.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS_RDONLY 1
#define MS_NOSUID 2
#define MS_NODEV 4
#define MS_NOEXEC 8
#define MS_REMOUNT 32
#define MS_BIND 4096
#define MS_REC 16384


#define MNT_DETACH 2
#define PLAIN (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define MUST(call) \
	do { \
		if ((call) < 0) { \
			dprintf(2, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(errno)); \
			for (;;) pause(); \
		} \
	} while (0)

extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);

static char *const no_environment[] = { NULL };

/* Where a child finds them. */
enum { IMAGE = 10, CHANNEL = 11 };

static void write_file(const char *path, const char *text)
{
	int fd;
	MUST(fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	MUST(write(fd, text, strlen(text)));
	close(fd);
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd;
	MUST(fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

/* --- the machine --- */

static void mount_machine(void)
{
	int tree, root;
	mkdir("/proc", 0755);
	MUST(tree = syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
	MUST(syscall(SYS_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
	MUST(root = openat(tree, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	MUST(fchdir(root));
	MUST(chroot("."));
	MUST(chdir("/"));
	MUST(mount("proc", "/proc", "proc", PLAIN, NULL));
	mkdir("/sys", 0755);
	MUST(mount("sysfs", "/sys", "sysfs", PLAIN, NULL));
	mkdir("/dev", 0755);
	MUST(mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"));
	mkdir("/dev/pts", 0755);
	MUST(mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"));
	mkdir("/dev/shm", 0755);
	MUST(mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%"));
	mkdir("/run", 0755);
	MUST(mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=25%"));
	MUST(mount("cgroup2", "/sys/fs/cgroup", "cgroup2", PLAIN, "nsdelegate,memory_recursiveprot"));
	mkdir("/tmp", 01777);
	MUST(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%"));
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
	MUST(reboot(RB_DISABLE_CAD));
}

static void set_up_machine(void)
{
	MUST(sethostname("localhost", 9));
	loopback_up();
	mkdir("/var", 0755);
	mkdir("/var/lib", 0755);
	mkdir("/var/lib/moored", 0755);
	mkdir("/var/log", 0755);
	mkdir("/var/log/moored", 0755);
	MUST(mount("tmpfs", "/var/log/moored", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=12%"));
	mkdir("/run/moored", 0700);
	write_file("/run/moored/init.notes", "");
}

/* As moored copies itself: the whole file, by the kernel, and sealed. The file is as long as moored's (boot.rs). */
static int sealed_image(void)
{
	ssize_t length;
	int from, to;
	MUST(from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	MUST(to = memfd_create("init", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	while ((length = sendfile(to, from, NULL, 1 << 30)) > 0)
		;
	MUST(length);
	MUST(fcntl(to, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	close(from);
	return to;
}

static pid_t start(const char *name, int channel)
{
	char *const arguments[] = { (char *)name, NULL };
	pid_t pid = fork();
	MUST(pid);
	if (pid == 0) {
		if (channel >= 0)
			MUST(dup2(channel, CHANNEL));
		MUST(execveat(IMAGE, "", arguments, no_environment, AT_EMPTY_PATH));
	}
	return pid;
}

static void init(int from_memory)
{
	pid_t pid;
	if (!from_memory) {
		char *const again[] = { "init", "again", NULL };
		mount_machine();
		MUST(dup2(sealed_image(), IMAGE));
		MUST(execveat(IMAGE, "", again, no_environment, AT_EMPTY_PATH));
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	MUST(pid = fork());
	if (pid == 0) {
		set_up_machine();
		_exit(0);
	}
	MUST(waitpid(pid, NULL, 0));
	start("keeper", -1);
	for (;;)
		wait(NULL);
}

/* --- the container --- */

static void node(const char *path, int major, int minor)
{
	MUST(mknod(path, S_IFCHR | 0666, makedev(major, minor)));
}

static void read_only(const char *path)
{
	MUST(mount(path, path, NULL, MS_BIND | MS_REC, NULL));
	MUST(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | PLAIN, NULL));
}

static void mask(const char *path)
{
	struct stat is;
	if (stat(path, &is) < 0)
		return;
	if (S_ISDIR(is.st_mode))
		MUST(mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=4k,nr_inodes=1"));
	else
		MUST(mount("/tmp/root/dev/null", path, NULL, MS_BIND, NULL));
}

static void set_up_container(void)
{
	static const char *const masks[] = { "acpi", "asound", "kcore", "keys", "latency_list", "timer_list", "sched_debug", "scsi", "interrupts" };
	static const char *const read_only_paths[] = { "bus", "fs", "irq", "sys", "sysrq-trigger" };
	char path[64];
	unsigned n;
	MUST(setsid());
	MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	mkdir("/tmp/root", 0755);
	MUST(mount("tmpfs", "/tmp/root", "tmpfs", 0, "mode=755"));
	write_file("/tmp/root/stamp", "");
	MUST(mount("/bin/stamp", "/tmp/root/stamp", NULL, MS_BIND, NULL));
	MUST(mount(NULL, "/tmp/root/stamp", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	mkdir("/tmp/root/etc", 0755);
	write_file("/tmp/root/etc/group", "root:x:0:\n");
	write_file("/tmp/root/etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
	write_file("/tmp/root/etc/hosts", "127.0.0.1 localhost\n");
	write_file("/tmp/root/etc/hostname", "first\n");
	write_file("/tmp/root/etc/resolv.conf", "");
	mkdir("/tmp/root/proc", 0755);
	MUST(mount("proc", "/tmp/root/proc", "proc", PLAIN, NULL));
	mkdir("/tmp/root/dev", 0755);
	MUST(mount("tmpfs", "/tmp/root/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755"));
	umask(0);
	node("/tmp/root/dev/null", 1, 3);
	node("/tmp/root/dev/zero", 1, 5);
	node("/tmp/root/dev/full", 1, 7);
	node("/tmp/root/dev/random", 1, 8);
	node("/tmp/root/dev/urandom", 1, 9);
	node("/tmp/root/dev/tty", 5, 0);
	node("/tmp/root/dev/kmsg", 1, 11);
	umask(022);
	symlink("/proc/self/fd", "/tmp/root/dev/fd");
	symlink("/proc/self/fd/0", "/tmp/root/dev/stdin");
	symlink("/proc/self/fd/1", "/tmp/root/dev/stdout");
	symlink("/proc/self/fd/2", "/tmp/root/dev/stderr");
	symlink("pts/ptmx", "/tmp/root/dev/ptmx");
	mkdir("/tmp/root/dev/pts", 0755);
	MUST(mount("devpts", "/tmp/root/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"));
	mkdir("/tmp/root/dev/shm", 0755);
	MUST(mount("shm", "/tmp/root/dev/shm", "tmpfs", PLAIN, "size=65536k"));
	mkdir("/tmp/root/tmp", 0755);
	MUST(mount("tmpfs", "/tmp/root/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=65536k"));
	for (n = 0; n < sizeof read_only_paths / sizeof *read_only_paths; n++) {
		snprintf(path, sizeof path, "/tmp/root/proc/%s", read_only_paths[n]);
		if (access(path, F_OK) == 0)
			read_only(path);
	}
	for (n = 0; n < sizeof masks / sizeof *masks; n++) {
		snprintf(path, sizeof path, "/tmp/root/proc/%s", masks[n]);
		mask(path);
	}
	MUST(sethostname("first", 5));
	loopback_up();
	MUST(chdir("/tmp/root"));
	MUST(syscall(SYS_pivot_root, ".", "."));
	MUST(umount2(".", MNT_DETACH));
	MUST(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	int n;
	for (n = 0; n <= CAP_LAST_CAP; n++)
		if (n != CAP_SYSLOG)
			prctl(PR_CAPBSET_DROP, n);
	data[CAP_TO_INDEX(CAP_SYSLOG)].permitted = data[CAP_TO_INDEX(CAP_SYSLOG)].effective = CAP_TO_MASK(CAP_SYSLOG);
	MUST(syscall(SYS_capset, &header, data));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* The starter's child is the keeper's, as a container is. */
static void start_container(void)
{
	char *const arguments[] = { "/stamp", NULL };
	struct clone_args request = {
		.flags = CLONE_PARENT | CLONE_INTO_CGROUP | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWNET,
	};
	int cgroup;
	pid_t pid;
	MUST(cgroup = open("/sys/fs/cgroup/moored/first.1", O_PATH | O_DIRECTORY | O_CLOEXEC));
	request.cgroup = cgroup;
	MUST(pid = syscall(SYS_clone3, &request, sizeof request));
	if (pid == 0) {
		set_up_container();
		drop_capabilities();
		MUST(execve("/stamp", arguments, no_environment));
	}
	_exit(0);
}

static void keeper(void)
{
	int channel[2];
	char byte;
	pid_t pid;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel));
	start("supervisor", channel[1]);
	MUST(read(channel[0], &byte, 1));
	MUST(pid = fork());
	if (pid == 0)
		start_container();
	for (;;)
		wait(NULL);
}

static void supervisor(void)
{
	mkdir("/sys/fs/cgroup/moored", 0755);
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids");
	write_file("/sys/fs/cgroup/moored/cgroup.subtree_control", "+cpu +memory +pids");
	MUST(mkdir("/sys/fs/cgroup/moored/first.1", 0755));
	write_file("/sys/fs/cgroup/moored/first.1/pids.max", "2048");
	MUST(write(CHANNEL, "s", 1));
	for (;;)
		pause();
}

/* --- what is measured --- */

static uint64_t boottime(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The time of the first record of the kernel's log from here on that holds the text, in µs of the log's clock: /dev/kmsg gives one for each read. */
static uint64_t logged(int log, const char *text)
{
	static char record[8192];
	for (;;) {
		unsigned long long us;
		ssize_t length = read(log, record, sizeof record - 1);
		if (length < 0 && errno == EPIPE)
			continue;
		MUST(length);
		record[length] = 0;
		if (strstr(record, text) && sscanf(record, "%*u,%*u,%llu", &us) == 1)
			return us;
	}
}

/* The log's clock and ours differ: what is written now has a time on both. Priority 0 comes through to the console. */
static void stamp(uint64_t first)
{
	char line[128];
	uint64_t started, mark_us, mark;
	int log;
	MUST(log = open("/dev/kmsg", O_RDWR));
	started = logged(log, "Run /init as init process");
	mark = boottime();
	/* Without the newline nobody could read it before the next record. */
	MUST(write(log, "<7>boot-mark\n", 13));
	mark_us = logged(log, "boot-mark");
	snprintf(line, sizeof line, "<0>boot-bench %lld us\n", (long long)(first / 1000) - (long long)(mark / 1000) + (long long)mark_us - (long long)started);
	MUST(write(log, line, strlen(line)));
	_exit(0);
}

int main(int count, char **arguments)
{
	uint64_t first = boottime();
	const char *name = strrchr(arguments[0], '/');
	name = name ? name + 1 : arguments[0];
	if (strcmp(name, "stamp") == 0)
		stamp(first);
	if (strcmp(name, "keeper") == 0)
		keeper();
	if (strcmp(name, "supervisor") == 0)
		supervisor();
	init(count > 1 && strcmp(arguments[1], "again") == 0);
}
