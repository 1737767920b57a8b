// The page of react.test.mjs: components under StrictMode, which the test mounts and unmounts.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { createClient } from "../dist/index.js";
import { useChannel, useConnection, useEvent, useMembers } from "../dist/react.js";

const query = new URLSearchParams(location.search);
const client = createClient(query.get("server"), { token: () => query.get("token") });
const states = [];
client.onState((state) => states.push(state.status));

const heard = [];
let root;
let show;

function Room({ name }) {
    const connection = useConnection(client);
    const { status, channel } = useChannel(client, name);
    const members = useMembers(client, name);
    const [count, setCount] = useState(0);
    // Another function in each render.
    useEvent(client, "n", (data) => (heard.push(["room", data, count]), setCount((n) => n + 1)), { channel: name });
    useEvent(client, "all", (data) => heard.push(["all", data]));
    return (
        <p id="room">
            {connection.status} {status} {members.map(({ id }) => id).join(",")} {count}{" "}
            {channel ? channel.name : "none"}
        </p>
    );
}

function App() {
    const [rooms, setRooms] = useState([]);
    show = setRooms;
    return rooms.map((name, n) => <Room key={n} name={name} />);
}

window.probe = {
    client,
    states,
    heard,
    mount() {
        root = createRoot(document.body.appendChild(document.createElement("div")));
        root.render(
            <StrictMode>
                <App />
            </StrictMode>,
        );
    },
    show: (rooms) => show(rooms),
    unmount: () => root.unmount(),
    listeners: () => client.listeners().length,
};
