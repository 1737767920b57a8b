// The plain dialect on uWebSockets. Needs C++20, and uWebSockets v20 with its uSockets, built with UWS_NO_ZLIB and LIBUS_NO_SSL.
//
// GET /ws?user=NAME upgrades. POST /emit sends its body, as one text frame, to every connection; POST /emit?user=NAME
// to the newest of that name. Listens on 127.0.0.1 and the port that is its one argument.

#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <unordered_map>

#include "App.h"

namespace {

struct Session {
    std::string user;
};

using Socket = uWS::WebSocket<false, true, Session>;

constexpr std::string_view EVERYONE = "everyone";

uWS::App *app = nullptr;
std::unordered_map<std::string, Socket *> users;

void emit(const std::string &user, std::string_view event) {
    if (user.empty()) {
        app->publish(EVERYONE, event, uWS::OpCode::TEXT);
    } else if (auto found = users.find(user); found != users.end()) {
        found->second->send(event, uWS::OpCode::TEXT);
    }
}

uWS::App::WebSocketBehavior<Session> sessions() {
    return {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 16 * 1024,
        // Also how often a silent client is pinged: longer than any load test, so that no ping stands in its figures.
        .idleTimeout = 960,
        // Over this, events are dropped without a word. Nothing may be lost here, so it is out of reach.
        .maxBackpressure = 1u << 30,
        .closeOnBackpressureLimit = false,
        .sendPingsAutomatically = true,
        .upgrade = [](auto *response, auto *request, auto *context) {
            response->template upgrade<Session>(
                {.user = std::string(request->getQuery("user"))}, request->getHeader("sec-websocket-key"),
                request->getHeader("sec-websocket-protocol"), request->getHeader("sec-websocket-extensions"), context);
        },
        .open = [](Socket *socket) {
            socket->subscribe(EVERYONE);
            users.insert_or_assign(socket->getUserData()->user, socket);
        },
        .close = [](Socket *socket, int, std::string_view) {
            auto found = users.find(socket->getUserData()->user);
            if (found != users.end() && found->second == socket) {
                users.erase(found);
            }
        },
    };
}

void post(uWS::HttpResponse<false> *response, uWS::HttpRequest *request) {
    response->onAborted([] {});
    auto take = [response, user = std::string(request->getQuery("user")), body = std::string()](
                    std::string_view part, bool last) mutable {
        if (last && body.empty()) {
            emit(user, part);
        } else {
            body.append(part);
            if (last) {
                emit(user, body);
            }
        }
        if (last) {
            response->end("{}");
        }
    };
    response->onData(std::move(take));
}

}  // namespace

int main(int count, char **arguments) {
    int port = count == 2 ? std::atoi(arguments[1]) : 0;
    if (port <= 0) {
        std::cerr << "usage: " << arguments[0] << " PORT\n";
        return 2;
    }
    uWS::App server;
    app = &server;
    bool listens = false;
    server.ws<Session>("/ws", sessions()).post("/emit", post).listen("127.0.0.1", port, [&](auto *socket) {
        listens = socket != nullptr;
    });
    if (!listens) {
        std::cerr << "cannot listen on 127.0.0.1:" << port << '\n';
        return 1;
    }
    server.run();
}
