/* Load for a relay: pairs of a sender and a receiver on one thread and one epoll. See generator.py for its reins.
 *
 *     cc -O2 -o generator generator.c                              plain TCP
 *     cc -O2 -DWITH_TLS -o generator generator.c -lssl -lcrypto    TLS to other servers as well
 *     generator JOBFILE
 *
 * It connects and logs in where the job says so, prints "ready", waits for a line on stdin, makes the load, prints one
 * line of JSON and waits for the end of stdin with all connections open. A second line on stdin ends the sending early.
 *
 * JOBFILE, one directive a line (HEX: bytes), those for all before the connections:
 *     load closed K | load paced T    K messages of each pair in flight, or one every T us, the pairs in turn
 *     count N                         messages of each pair
 *     seconds S                       patience with the load and with each step of a login
 *   frames: sockets come from the parent, which has prepared what is sent and checks what came
 *     frames PATH                     all that is sent, mapped
 *     index PATH                      u64, host order: for each pair count + 1 offsets into it, where messages begin
 *     received PATH SIZE              file to keep what comes: pair i's bytes stand from i * SIZE
 *     frame N                         whole length of a relayed message; u32-prefixed frames of other lengths are no
 *                                     message and counted as strange (0: every frame is a message)
 *     pair SENDER_FD RECEIVER_FD
 *   script: other servers, whose messages are counted by a delimiter
 *     delimiter HEX                   stands once in each message that comes, and in nothing else
 *     settle MS                       after the last login
 *     connection sender|receiver|idle HOST PORT      and then what this connection does, one after the other:
 *     tls | send HEX | expect HEX | message HEX      message: what the sender sends, again and again
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { BUFFER = 1 << 20, MOST_DELIMITER = 256 };

struct pair;
struct connection {
    int fd, is_sender, waits_for_room;
    SSL *tls;
    struct pair *pair;               /* NULL: idle */
    uint8_t *message;                /* script: what a sender sends */
    size_t message_size, held;       /* held: bytes in `tail` */
    uint8_t tail[BUFFER / 16];       /* script: what an expect did not use; later the possible start of a delimiter */
};

struct pair {
    struct connection *sender, *receiver;
    const uint8_t *bytes;            /* frames: all of them; script: copies of the one message */
    const uint64_t *starts;          /* frames: offsets into `bytes`, count + 1 of them; script: NULL */
    uint64_t sent;                   /* bytes that the socket took */
    uint32_t asked, got;             /* messages handed to the socket, messages received */
    uint64_t *asked_at;              /* ns, of each message */
    uint8_t *kept;                   /* frames: every byte received */
    uint64_t filled, parsed;
};

static int paced, script;
static uint64_t load_value = 1, count, patience = 30, frame_size, kept_size, settle_ms = 100;
static uint8_t delimiter[MOST_DELIMITER], buffer[BUFFER + MOST_DELIMITER];
static size_t delimiter_size, copies;
static const uint8_t *frames, *starts;
static uint8_t *kept;
static struct pair *pairs;
static struct connection **connections;
static size_t pair_count, connection_count, senders, receivers;
static uint64_t asked, messages, strange, answers, samples;
static uint32_t *sample;
static int poller, stopping;

static void fail(const char *format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *at = text; *at; at++)
        if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') *at = '\'';
    printf("{\"error\": \"%s\"}\n", text);
    exit(1);
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void *room(size_t size) {
    void *found = calloc(1, size ? size : 1);
    if (!found) fail("out of memory");
    return found;
}

/* connections ------------------------------------------------------------------------------------------------------ */

static const char *name(const struct connection *c) { return c->is_sender ? "sender" : c->pair ? "receiver" : "idle"; }

/* Bytes that went out; 0 where there is no room now. */
static size_t put(struct connection *c, const uint8_t *data, size_t size) {
#ifdef WITH_TLS
    if (c->tls) {
        int done = SSL_write(c->tls, data, size > 1 << 30 ? 1 << 30 : (int)size);
        if (done > 0) return (size_t)done;
        if (SSL_get_error(c->tls, done) == SSL_ERROR_WANT_WRITE) return 0;
        fail("TLS to a %s broke while sending", name(c));
    }
#endif
    ssize_t done = send(c->fd, data, size, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN && errno != EINTR) fail("sending on a %s: %s", name(c), strerror(errno));
    return done < 0 ? 0 : (size_t)done;
}

/* Bytes that came; 0 where there are none now. */
static size_t take(struct connection *c, uint8_t *data, size_t size) {
#ifdef WITH_TLS
    if (c->tls) {
        int done = SSL_read(c->tls, data, size > 1 << 30 ? 1 << 30 : (int)size);
        if (done > 0) return (size_t)done;
        if (SSL_get_error(c->tls, done) == SSL_ERROR_WANT_READ) return 0;
        fail("the server closed the TLS connection of a %s", name(c));
    }
#endif
    ssize_t done = recv(c->fd, data, size, 0);
    if (done < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (done <= 0) fail("the server closed the connection of a %s", name(c));
    return (size_t)done;
}

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (c->waits_for_room ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) fail("epoll: %s", strerror(errno));
}

/* sending ---------------------------------------------------------------------------------------------------------- */

static uint64_t start_of(const struct pair *p, uint32_t message) {
    return p->starts ? p->starts[message] - p->starts[0] : (uint64_t)message * p->sender->message_size;
}

static void flush(struct pair *p) {
    struct connection *c = p->sender;
    uint64_t end = start_of(p, p->asked);
    size_t done = 1;
    while (p->sent < end && done) {
        uint64_t size = end - p->sent, at = p->sent;
        if (!p->starts) { /* the copies stand one behind the other, from any of them on all are alike */
            at %= c->message_size;
            if (size > copies * c->message_size - at) size = copies * c->message_size - at;
        }
        p->sent += done = put(c, p->bytes + at, size);
    }
    if (c->waits_for_room != (p->sent < end)) {
        c->waits_for_room = p->sent < end;
        watch(c, EPOLL_CTL_MOD);
    }
}

static void push(struct pair *p, uint32_t more) {
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    asked += more;
    while (more--) p->asked_at[p->asked++] = now;
    flush(p);
}

/* In a closed loop, what is missing to K in flight. */
static void refill(struct pair *p) {
    uint64_t wanted = p->got + load_value;
    if (wanted > count) wanted = count;
    if (!paced && !stopping && wanted > p->asked) push(p, (uint32_t)(wanted - p->asked));
}

/* receiving -------------------------------------------------------------------------------------------------------- */

static void message_came(struct pair *p, uint64_t now) {
    if (p->got >= p->asked) { /* more than was sent */
        strange++;
        return;
    }
    uint64_t taken = now - p->asked_at[p->got++];
    sample[samples++] = taken > UINT32_MAX ? UINT32_MAX : (uint32_t)taken;
    messages++;
}

static size_t receive_frames(struct pair *p) {
    size_t left = kept_size - p->filled, came;
    if (!left) fail("more came than was sent");
    came = take(p->receiver, p->kept + p->filled, left > BUFFER ? BUFFER : left);
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    p->filled += came;
    while (p->filled - p->parsed >= 4) {
        uint32_t length;
        memcpy(&length, p->kept + p->parsed, 4);
        uint64_t whole = 4 + (uint64_t)ntohl(length);
        if (p->filled - p->parsed < whole) break;
        p->parsed += whole;
        if (frame_size && whole != frame_size) strange++;
        else message_came(p, now);
    }
    return came;
}

static size_t receive_delimited(struct pair *p) {
    struct connection *c = p->receiver;
    memcpy(buffer, c->tail, c->held);
    size_t came = take(c, buffer + c->held, BUFFER);
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    uint8_t *at = buffer, *end = buffer + c->held + came, *found;
    p->filled += came;
    while ((found = memmem(at, (size_t)(end - at), delimiter, delimiter_size))) {
        message_came(p, now);
        at = found + delimiter_size;
    }
    c->held = (size_t)(end - at) < delimiter_size ? (size_t)(end - at) : delimiter_size - 1;
    memcpy(c->tail, end - c->held, c->held);
    return came;
}

static void readable(struct connection *c) {
    size_t came;
    do {
        if (c->pair && !c->is_sender) {
            came = script ? receive_delimited(c->pair) : receive_frames(c->pair);
            refill(c->pair);
        } else {
            came = take(c, buffer, BUFFER);
            if (c->is_sender) answers += came;
        }
    } while (c->tls && came); /* TLS may hold bytes that epoll does not see */
}

/* the load --------------------------------------------------------------------------------------------------------- */

static void on_timer(int timer) {
    static size_t next;
    uint64_t due;
    if (read(timer, &due, sizeof due) != sizeof due) return;
    for (; due && !stopping && asked < pair_count * count; due--) push(&pairs[next++ % pair_count], 1);
}

static void run(void) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event ready[512], event = {.events = EPOLLIN, .data.ptr = &timer};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event)) fail("epoll: %s", strerror(errno));
    event.data.ptr = NULL;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event)) fail("stdin is no pipe: %s", strerror(errno));
    uint64_t own = now_ns(CLOCK_PROCESS_CPUTIME_ID), began = now_ns(CLOCK_MONOTONIC), now = began;
    if (paced) {
        struct timespec every = {(time_t)(load_value / 1000000), (long)(load_value % 1000000) * 1000};
        struct itimerspec times = {every, {0, 1}};
        if (timerfd_settime(timer, 0, &times, NULL)) fail("timer: %s", strerror(errno));
    }
    for (size_t i = 0; i < pair_count; i++) refill(&pairs[i]);
    while (messages < (stopping ? asked : pair_count * count)) {
        int number = epoll_wait(poller, ready, 512, 200);
        for (int i = 0; i < number; i++) {
            struct connection *c = ready[i].data.ptr;
            if ((void *)c == &timer) on_timer(timer);
            else if (c) {
                if (ready[i].events & EPOLLOUT) flush(c->pair);
                if (ready[i].events & ~(uint32_t)EPOLLOUT) readable(c);
            } else {
                char line[64];
                if (read(0, line, sizeof line) <= 0) exit(0); /* the parent is gone */
                stopping = 1;
            }
        }
        now = now_ns(CLOCK_MONOTONIC);
        if (now - began > patience * 1000000000u)
            fail("after %d s %ld messages had not come", (int)patience, (long)(asked - messages));
    }
    own = now_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
    printf("{\"error\": \"\", \"messages\": %lu, \"seconds\": %.6f, \"cpu\": %.6f, ", (unsigned long)messages,
           (double)(now - began) / 1e9, (double)own / 1e9);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(void) {
    qsort(sample, samples, sizeof *sample, by_size);
    double at[3] = {0, 0, 0};
    if (samples)
        for (int i = 0; i < 3; i++) at[i] = sample[i == 2 ? samples - 1 : samples * (i ? 99 : 50) / 100] / 1e3;
    printf("\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f, ", at[0], at[1], at[2]);
    printf("\"strange\": %lu, \"answers\": %lu, \"pairs\": [", (unsigned long)strange, (unsigned long)answers);
    for (size_t i = 0; i < pair_count; i++)
        printf("%s[%u, %u, %lu]", i ? ", " : "", pairs[i].asked, pairs[i].got, (unsigned long)pairs[i].filled);
    printf("]}\n");
}

/* the job ---------------------------------------------------------------------------------------------------------- */

static uint8_t *map(const char *path, int writable, uint64_t least) {
    struct stat about;
    int fd = open(path, writable ? O_RDWR : O_RDONLY);
    if (fd < 0 || fstat(fd, &about)) fail("%s: %s", path, strerror(errno));
    if ((uint64_t)about.st_size < least) fail("%s is too short", path);
    void *found = mmap(NULL, (size_t)about.st_size + !about.st_size, PROT_READ | (writable ? PROT_WRITE : 0),
                       MAP_SHARED | MAP_POPULATE, fd, 0);
    if (found == MAP_FAILED) fail("%s: %s", path, strerror(errno));
    close(fd);
    return found;
}

static size_t from_hex(const char *text, uint8_t *into) {
    size_t size = 0;
    unsigned value;
    for (; sscanf(text, "%2x", &value) == 1 && text[0] && text[1]; text += 2) into[size++] = (uint8_t)value;
    return size;
}

static struct connection *add_connection(int fd, int is_sender, int is_receiver) {
    struct connection *c = room(sizeof *c);
    c->fd = fd;
    c->is_sender = is_sender;
    connections = realloc(connections, (connection_count + 1) * sizeof *connections);
    pairs = realloc(pairs, (connection_count + 1) * sizeof *pairs); /* never more pairs than connections */
    if (!connections || !pairs) fail("out of memory");
    connections[connection_count++] = c;
    if (is_sender) pairs[senders++].sender = c;
    if (is_receiver) pairs[receivers++].receiver = c;
    return c;
}

static struct connection *dial(const char *role, const char *host, int port) {
    struct timeval wait = {(time_t)patience, 0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) fail("%s is no IPv4 address", host);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connection %lu to %s:%d: %s", (unsigned long)connection_count + 1, host, port, strerror(errno));
    return add_connection(fd, !strcmp(role, "sender"), !strcmp(role, "receiver"));
}

static void start_tls(struct connection *c) {
#ifdef WITH_TLS
    static SSL_CTX *context;
    if (!context && !(context = SSL_CTX_new(TLS_client_method()))) fail("no TLS");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    c->tls = SSL_new(context);
    SSL_set_fd(c->tls, c->fd);
    if (SSL_connect(c->tls) != 1) fail("TLS: %s", ERR_reason_error_string(ERR_get_error()));
#else
    fail("this generator was built without TLS (connection of fd %d)", c->fd);
#endif
}

static void expect(struct connection *c, const uint8_t *wanted, size_t size) {
    uint8_t *found;
    while (!(found = memmem(c->tail, c->held, wanted, size))) {
        size_t came = c->held < sizeof c->tail ? take(c, c->tail + c->held, sizeof c->tail - c->held) : 0;
        if (!came)
            fail("login %lu: instead of '%.*s' came '%.*s'", (unsigned long)connection_count,
                 (int)(size > 99 ? 99 : size), wanted,
                 (int)(c->held > 200 ? 200 : c->held), c->tail + (c->held > 200 ? c->held - 200 : 0));
        c->held += came;
    }
    c->held -= (size_t)(found + size - c->tail);
    memmove(c->tail, found + size, c->held);
}

static void directive(char *line) {
    static struct connection *c;
    char *rest = strchr(line, ' '), word[20] = "", path[4096] = "";
    long a = 0, b = 0;
    if (rest) *rest++ = 0;
    else rest = line + strlen(line);
    uint8_t *bytes = room(strlen(rest) / 2 + 1);
#define IS(text, form) (!strcmp(line, text) && (form))
    if (!*line || *line == '#') {
        /* nothing */
    } else if (IS("load", sscanf(rest, "%19s %ld", word, &a) == 2 && a > 0)) {
        paced = *word == 'p';
        load_value = (uint64_t)a;
    } else if (IS("count", sscanf(rest, "%ld", &a) == 1)) {
        count = (uint64_t)a;
    } else if (IS("seconds", sscanf(rest, "%ld", &a) == 1)) {
        patience = (uint64_t)a;
    } else if (IS("settle", sscanf(rest, "%ld", &a) == 1)) {
        settle_ms = (uint64_t)a;
    } else if (IS("frame", sscanf(rest, "%ld", &a) == 1)) {
        frame_size = (uint64_t)a;
    } else if (IS("frames", *rest)) {
        frames = map(rest, 0, 0);
    } else if (IS("index", *rest)) {
        starts = map(rest, 0, 0);
    } else if (IS("received", sscanf(rest, "%4095s %ld", path, &a) == 2)) {
        kept_size = (uint64_t)a;
        kept = map(path, 1, kept_size);
    } else if (IS("pair", sscanf(rest, "%ld %ld", &a, &b) == 2)) {
        add_connection((int)a, 1, 0);
        add_connection((int)b, 0, 1);
    } else if (IS("delimiter", *rest && strlen(rest) < 2 * MOST_DELIMITER)) {
        delimiter_size = from_hex(rest, delimiter);
        script = 1;
    } else if (IS("connection", sscanf(rest, "%19s %4095s %ld", word, path, &a) == 3)) {
        c = dial(word, path, (int)a);
    } else if (IS("tls", c)) {
        start_tls(c);
    } else if (IS("message", c)) {
        c->message = room(strlen(rest));
        c->message_size = from_hex(rest, c->message);
    } else if (IS("expect", c)) {
        expect(c, bytes, from_hex(rest, bytes));
    } else if (IS("send", c)) {
        size_t size = from_hex(rest, bytes), sent = 0, done = 1;
        for (; sent < size && done; sent += done) done = put(c, bytes + sent, size - sent);
        if (sent < size) fail("login %lu: time ran out", (unsigned long)connection_count);
    } else {
        fail("the job has a line that means nothing: %s", line);
    }
    free(bytes);
}

static void prepare_pair(size_t i) {
    struct pair *p = &pairs[i];
    struct pair blank = {.sender = p->sender, .receiver = p->receiver, .asked_at = room(count * sizeof *p->asked_at)};
    *p = blank;
    p->sender->pair = p->receiver->pair = p;
    if (script) {
        size_t size = p->sender->message_size;
        if (!size) fail("a sender has no message");
        uint8_t *all = room(copies * size);
        for (size_t k = 0; k < copies; k++) memcpy(all + k * size, p->sender->message, size);
        p->bytes = all;
    } else {
        p->starts = (const uint64_t *)starts + i * (count + 1);
        p->bytes = frames + p->starts[0];
        p->kept = kept + i * kept_size;
    }
}

int main(int argc, char **argv) {
    char *line = NULL, go[64];
    size_t space = 0;
    FILE *job = argc == 2 ? fopen(argv[1], "r") : NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!job) fail("usage: generator JOBFILE");
    while (getline(&line, &space, job) > 0) line[strcspn(line, "\r\n")] = 0, directive(line);
    if (senders != receivers) fail("%d senders and %d receivers", (int)senders, (int)receivers);
    pair_count = senders;
    if (!script && pair_count && !(frames && starts && kept)) fail("frames, index and received are needed");
    copies = paced ? 1 : load_value;
    sample = room(pair_count * count * sizeof *sample);
    poller = epoll_create1(0);
    for (size_t i = 0; i < pair_count; i++) prepare_pair(i);
    if (script) usleep((useconds_t)settle_ms * 1000);
    for (size_t i = 0; i < connection_count; i++) {
        struct connection *c = connections[i];
        fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
        while (script && take(c, buffer, BUFFER)) {}
        c->held = 0;
        watch(c, EPOLL_CTL_ADD);
    }
    printf("ready\n");
    do {
        if (read(0, go, 1) <= 0) return 0;
    } while (*go != '\n');
    run();
    report();
    while (read(0, go, sizeof go) > 0) {}
    return 0;
}
