// A server whose send log is the truth: each request gets its first token after a known time and the others at a known
// interval, and the time of every send (CLOCK_MONOTONIC) is written at the end.
//
//   cc -O2 -o token_server token_server.c; ./token_server PORT TTFT_MS ITL_MS LOG
//
// It reads a request's number from the header X-Number and its length from "max_tokens", and plays vLLM's completions.
// One thread, epoll, a heap of moments; the log has three 64-bit numbers a token: request, token, nanoseconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, READ = 1 << 16 };

typedef struct {
    char in[READ];
    int taken, live;
    int64_t number, tokens, sent;
} Stream;

typedef struct {
    int64_t at;
    int fd;
} Moment;

static Stream *streams[MOST];
static Moment heap[MOST];
static int heaped, poller, timer;
static int64_t ttft_ns, itl_ns, *logged;
static size_t lines, room;
static volatile sig_atomic_t stopping;

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void push(int64_t at, int fd) {
    int place = heaped++;
    while (place && heap[(place - 1) / 2].at > at) {
        heap[place] = heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    heap[place] = (Moment){at, fd};
}

static Moment pop(void) {
    Moment first = heap[0], last = heap[--heaped];
    int place = 0;
    for (;;) {
        int child = 2 * place + 1;
        if (child >= heaped) break;
        if (child + 1 < heaped && heap[child + 1].at < heap[child].at) child++;
        if (heap[child].at >= last.at) break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = last;
    return first;
}

static void leave(int fd) {
    if (streams[fd]) streams[fd]->live = 0;
    free(streams[fd]);
    streams[fd] = NULL;
    close(fd);
}

static void note(int64_t request, int64_t token, int64_t at) {
    if (lines + 3 > room) logged = realloc(logged, (room = room ? room * 2 : 1 << 20) * sizeof *logged);
    logged[lines++] = request;
    logged[lines++] = token;
    logged[lines++] = at;
}

static int chunk(char *to, const char *text) { return sprintf(to, "%zx\r\n%s\r\n", strlen(text), text); }

static void give(int fd) {
    Stream *s = streams[fd];
    char out[2048];
    int last = ++s->sent == s->tokens;
    char event[256];
    sprintf(event, "data: {\"choices\":[{\"index\":0,\"text\":\" the\",\"finish_reason\":%s}]}\n\n",
            last ? "\"length\"" : "null");
    int length = chunk(out, event);
    int64_t at = now();
    if (last) {
        char count[256];
        sprintf(count, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":%ld}}\n\ndata: [DONE]\n\n",
                (long)s->sent);
        length += chunk(out + length, count);
        length += sprintf(out + length, "0\r\n\r\n");
    }
    note(s->number, s->sent, at);
    if (write(fd, out, length) != length) {
        leave(fd);
        return;
    }
    if (last)
        s->live = 0;
    else
        push(at + itl_ns, fd);
}

static void take(int fd) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    Stream *s = streams[fd];
    ssize_t count = read(fd, s->in + s->taken, READ - 1 - s->taken);
    if (count <= 0) {
        if (count == 0 || errno != EAGAIN) leave(fd);
        return;
    }
    s->in[s->taken += count] = 0;
    char *end = strstr(s->in, "\r\n\r\n"), *size = strcasestr(s->in, "content-length:");
    if (!end || !size || s->in + s->taken < end + 4 + atol(size + 15)) return;
    char *number = strcasestr(s->in, "x-number:"), *tokens = strstr(end, "\"max_tokens\":");
    s->number = number ? atol(number + 9) : -1;
    s->tokens = tokens ? atol(tokens + 13) : 16;
    s->sent = s->taken = 0;
    s->live = 1;
    if (write(fd, head, sizeof head - 1) != (ssize_t)sizeof head - 1) {
        leave(fd);
        return;
    }
    push(now() + ttft_ns, fd);
}

static void welcome(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        streams[fd] = calloc(1, sizeof(Stream));
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **words) {
    if (count != 5) return fprintf(stderr, "usage: token_server PORT TTFT_MS ITL_MS LOG\n"), 2;
    ttft_ns = atof(words[2]) * 1e6, itl_ns = atof(words[3]) * 1e6;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST ? files.rlim_max : MOST;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 8192)) return perror("bind"), 1;
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.events = EPOLLIN | EPOLLET, event.data.fd = timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    while (!stopping) {
        while (heaped && heap[0].at <= now()) {
            Moment moment = pop();
            if (streams[moment.fd] && streams[moment.fd]->live) give(moment.fd);
        }
        if (heaped) {
            struct itimerspec wake = {{0, 0}, {heap[0].at / 1000000000LL, heap[0].at % 1000000000LL}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &wake, NULL);
        }
        int ready = epoll_wait(poller, events, 512, 1000);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                welcome(listener);
            else if (fd != timer && streams[fd])
                take(fd);
        }
    }
    FILE *file = fopen(words[4], "wb");
    if (!file || fwrite(logged, sizeof *logged, lines, file) != lines || fclose(file)) return perror(words[4]), 1;
    return 0;
}
