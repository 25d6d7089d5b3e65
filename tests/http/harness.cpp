/*
 * harness.cpp: see harness.hpp.
 */
#include "tests/http/harness.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

namespace
{

/* Waits for events on one descriptor. Returns what poll(2) does. */
int wait_on(int fd, short events, int patience_ms)
{
    struct pollfd p = {fd, events, 0};
    int n;
    do
        n = poll(&p, 1, patience_ms);
    while (n < 0 && errno == EINTR);
    return n;
}

std::vector<char *> arguments(const std::vector<std::string> &command)
{
    std::vector<char *> argv;
    for (const std::string &word : command)
        argv.push_back(const_cast<char *>(word.c_str()));
    argv.push_back(nullptr);
    return argv;
}

void child_defaults()
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
}

struct sockaddr_in loopback(const std::string &host, uint16_t port)
{
    struct sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    inet_pton(AF_INET, host.c_str(), &address.sin_addr);
    return address;
}

std::string file_text(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

} // namespace

double ms_since(Clock::time_point begin)
{
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

bool can_connect(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = loopback("127.0.0.1", port);
    bool can = connect(fd, reinterpret_cast<struct sockaddr *>(&to), sizeof to) == 0;
    ::close(fd);
    return can;
}

/* ---- Client ---- */

Client::Client(uint16_t port, const std::string &source, int receive_buffer)
{
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    INFO("socket: " << strerror(errno));
    REQUIRE(fd_ >= 0);
    int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (receive_buffer)
        setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    if (!source.empty()) {
        setsockopt(fd_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        struct sockaddr_in from = loopback(source, 0);
        REQUIRE(bind(fd_, reinterpret_cast<struct sockaddr *>(&from), sizeof from) == 0);
    }
    struct sockaddr_in to = loopback("127.0.0.1", port);
    int rc = connect(fd_, reinterpret_cast<struct sockaddr *>(&to), sizeof to);
    INFO("connect: " << strerror(errno));
    REQUIRE(rc == 0);
    fcntl(fd_, F_SETFL, O_NONBLOCK);
}

bool Client::send(std::string_view bytes)
{
    while (!bytes.empty()) {
        ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n >= 0)
            bytes.remove_prefix(static_cast<size_t>(n));
        else if (errno != EAGAIN || wait_on(fd_, POLLOUT, PATIENCE_MS) <= 0)
            return false;
    }
    return true;
}

bool Client::receive_some(int patience_ms)
{
    char buf[65536];
    if (ending_ != Ending::open || wait_on(fd_, POLLIN, patience_ms) <= 0)
        return false;
    ssize_t n = recv(fd_, buf, sizeof buf, 0);
    if (n > 0)
        in_.append(buf, static_cast<size_t>(n));
    else if (n == 0)
        ending_ = Ending::fin;
    else if (errno != EAGAIN)
        ending_ = Ending::reset;
    return ending_ == Ending::open;
}

/* Takes an answer off what has been received, if all of it has. */
bool Client::take(Answer *answer, bool bare)
{
    size_t head_end = in_.find("\r\n\r\n");
    if (head_end == std::string::npos)
        return false;
    Answer a;
    a.head = in_.substr(0, head_end + 4);
    size_t line_end = a.head.find("\r\n");
    if (a.head.compare(0, 9, "HTTP/1.1 ") == 0)
        a.status = atoi(a.head.c_str() + 9);
    for (size_t at = line_end + 2; at < head_end; at = line_end + 2) {
        line_end = a.head.find("\r\n", at);
        size_t colon = a.head.find(": ", at);
        if (colon == std::string::npos || colon > line_end)
            break;
        std::string name = a.head.substr(at, colon - at);
        std::transform(name.begin(), name.end(), name.begin(), ::tolower);
        a.headers[name] = a.head.substr(colon + 2, line_end - colon - 2);
    }
    bool has_content = !bare && a.status >= 200 && a.status != 304;
    size_t len = has_content ? strtoul(a.header("content-length").c_str(), nullptr, 10) : 0;
    if (in_.size() < head_end + 4 + len)
        return false;
    a.body = in_.substr(head_end + 4, len);
    a.complete = true;
    in_.erase(0, head_end + 4 + len);
    *answer = a;
    return true;
}

Answer Client::answer(bool bare)
{
    Answer a;
    while (!take(&a, bare) && receive_some(PATIENCE_MS))
        ;
    return a;
}

std::vector<Answer> Client::exchange(std::string_view bytes, size_t count)
{
    std::vector<Answer> answers;
    Answer a;
    while (answers.size() < count) {
        short events = static_cast<short>(POLLIN | (bytes.empty() ? 0 : POLLOUT));
        if (wait_on(fd_, events, PATIENCE_MS) <= 0)
            break;
        ssize_t n = bytes.empty() ? -1
                                  : ::send(fd_, bytes.data(), std::min<size_t>(bytes.size(), 65536),
                                           MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            bytes.remove_prefix(static_cast<size_t>(n));
        receive_some(0);
        while (answers.size() < count && take(&a, false))
            answers.push_back(a);
        if (ending_ != Ending::open)
            break;
    }
    return answers;
}

Answer Client::ask(std::string_view request, bool bare)
{
    return send(request) ? answer(bare) : Answer();
}

Ending Client::end(int patience_ms)
{
    Clock::time_point begin = Clock::now();
    while (ending_ == Ending::open) {
        int left = patience_ms - static_cast<int>(ms_since(begin));
        if (left <= 0)
            break;
        receive_some(left);
    }
    return ending_;
}

void Client::finish_sending()
{
    shutdown(fd_, SHUT_WR);
}

void Client::reset()
{
    struct linger linger = {1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close();
}

void Client::close()
{
    if (fd_ >= 0)
        ::close(fd_);
    fd_ = -1;
}

/* ---- Server ---- */

Server::Server(const std::vector<std::string> &options, unsigned descriptors)
{
    const char *path = getenv("HTTP_SERVER");
    INFO("the environment variable HTTP_SERVER names the server to test");
    REQUIRE(path != nullptr);
    std::vector<std::string> command = {path, "--listen", "127.0.0.1:0"};
    command.insert(command.end(), options.begin(), options.end());
    std::vector<char *> argv = arguments(command);
    int out[2];
    REQUIRE(pipe2(out, O_CLOEXEC) == 0);

    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
        child_defaults();
        if (descriptors) {
            const struct rlimit limit = {descriptors, descriptors};
            setrlimit(RLIMIT_NOFILE, &limit);
        }
        dup2(out[1], STDOUT_FILENO);
        dup2(err_.fd(), STDERR_FILENO);
        execv(path, argv.data());
        _exit(127);
    }
    ::close(out[1]);
    pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    stdout_ = out[0];
    read_port();
}

void Server::read_port()
{
    Clock::time_point begin = Clock::now();
    while (lines_of(out_) < 2 && ms_since(begin) < PATIENCE_MS) {
        char buf[256];
        if (wait_on(stdout_, POLLIN, PATIENCE_MS) <= 0)
            break;
        ssize_t n = read(stdout_, buf, sizeof buf);
        if (n <= 0)
            break;
        out_.append(buf, static_cast<size_t>(n));
    }
    INFO("it printed: " << out_ << " and said: " << said());
    REQUIRE(out_.compare(0, 23, "listening on 127.0.0.1:") == 0);
    port_ = static_cast<uint16_t>(atoi(out_.c_str() + 23));
    REQUIRE(port_ != 0);
    const std::string address = "127.0.0.1:" + std::to_string(port_);
    CHECK(out_ == "listening on " + address + "\nfigures: http://" + address + "/status\n");
}

Server::~Server()
{
    /* The clients have gone: it ends at once, and well, or a sanitizer has something to say. */
    if (pid_ > 0 && status_ < 0 && !std::uncaught_exceptions())
        CHECK(stop() == 0);
    if (pid_ > 0 && status_ < 0) {
        kill(pid_, SIGKILL);
        waitpid(pid_, &status_, 0);
    }
    if (pidfd_ >= 0)
        ::close(pidfd_);
    if (stdout_ >= 0)
        ::close(stdout_);
}

void Server::signal(int number) const
{
    kill(pid_, number);
}

int Server::wait(int patience_ms)
{
    if (status_ < 0 && wait_on(pidfd_, POLLIN, patience_ms) > 0) {
        char buf[1024];
        ssize_t n;
        waitpid(pid_, &status_, 0);
        while ((n = read(stdout_, buf, sizeof buf)) > 0)
            out_.append(buf, static_cast<size_t>(n));
    }
    return status_;
}

int Server::stop(int patience_ms)
{
    signal(SIGTERM);
    return wait(patience_ms);
}

std::string Server::status_json() const
{
    Clock::time_point begin = Clock::now();
    for (;;) {
        Client client(port_);
        Answer a = client.ask(get("/status.json", "Connection: close\r\n"));
        /* Its end tells that the server has given back what it had for us. */
        client.end();
        /* 503: there is no room for us before somebody has left */
        if (a.status != 503 || ms_since(begin) > PATIENCE_MS)
            return a.body;
    }
}

double Server::number(const std::string &group, const std::string &name) const
{
    std::string json = status_json();
    size_t at = json.find("\"" + group + "\":{");
    size_t end = json.find('}', at);
    size_t found = at == std::string::npos ? at : json.find("\"" + name + "\":", at);
    INFO(json);
    REQUIRE(found != std::string::npos);
    REQUIRE(found < end);
    return strtod(json.c_str() + found + name.size() + 3, nullptr);
}

bool Server::reaches(const std::string &group, const std::string &name, double wanted) const
{
    Clock::time_point begin = Clock::now();
    while (number(group, name) != wanted)
        if (ms_since(begin) > PATIENCE_MS)
            return false;
    return true;
}

size_t Server::descriptors() const
{
    size_t count = 0;
    DIR *dir = opendir(("/proc/" + std::to_string(pid_) + "/fd").c_str());
    REQUIRE(dir != nullptr);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2; /* "." and ".." */
}

size_t Server::resident_bytes() const
{
    unsigned long pages = 0;
    std::string text = file_text("/proc/" + std::to_string(pid_) + "/statm");
    REQUIRE(sscanf(text.c_str(), "%*u %lu", &pages) == 1);
    return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

double Server::cpu_ms() const
{
    unsigned long user = 0, system = 0;
    std::string text = file_text("/proc/" + std::to_string(pid_) + "/stat");
    size_t at = text.rfind(')');
    REQUIRE(at != std::string::npos);
    REQUIRE(sscanf(text.c_str() + at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                   &user, &system) == 2);
    return static_cast<double>(user + system) * 1000 / static_cast<double>(sysconf(_SC_CLK_TCK));
}

/* ---- Requests ---- */

std::string get(const std::string &path, const std::string &more_headers)
{
    return "GET " + path + " HTTP/1.1\r\nHost: test\r\n" + more_headers + "\r\n";
}

std::string post(const std::string &path, const std::string &body)
{
    return "POST " + path +
           " HTTP/1.1\r\nHost: test\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body;
}

Answer ask_once(const Server &server, const std::string &request, bool bare)
{
    Client client(server.port());
    return client.ask(request, bare);
}

/* ---- Programs and files ---- */

std::string run_program(const std::vector<std::string> &command, int *ret_status)
{
    Said said;
    std::vector<char *> argv = arguments(command);
    pid_t pid = fork();
    if (pid == 0) {
        child_defaults();
        dup2(said.fd(), STDOUT_FILENO);
        dup2(said.fd(), STDERR_FILENO);
        execvp(argv[0], argv.data());
        _exit(127);
    }
    int status = -1;
    REQUIRE(pid > 0);
    REQUIRE(waitpid(pid, &status, 0) == pid);
    if (ret_status)
        *ret_status = status;
    return said.text();
}

bool have_program(const std::string &name)
{
    int status = -1;
    run_program({"sh", "-c", "command -v " + name}, &status);
    return status == 0;
}

Folder::Folder()
{
    std::string pattern = (std::filesystem::temp_directory_path() / "whorl-http-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
}

Folder::~Folder()
{
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string Folder::write(const std::string &name, const std::string &content) const
{
    std::filesystem::path path = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
}

std::string noise(size_t size, uint32_t seed)
{
    std::string bytes(size, '\0');
    for (char &byte : bytes) {
        seed = seed * 1664525 + 1013904223;
        byte = static_cast<char>(seed >> 24);
    }
    return bytes;
}
